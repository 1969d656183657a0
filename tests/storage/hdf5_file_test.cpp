#include "storage/hdf5_file.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <thread>

#include "test_folder.h"

namespace surgery {
namespace {

constexpr const char* kFormat = "surgery-test";

void write_sample(const std::filesystem::path& path) {
  Hdf5Writer writer(path, kFormat, 3);
  writer.attribute("prompt", "a red circle \xE2\x82\xAC");
  writer.attribute("empty", "");
  writer.attribute("steps", int64_t{-50});
  writer.attribute("guidance", 5.25);
  writer.dataset("state/phi/weight", at::arange(24).reshape({2, 3, 4}).to(at::kFloat).transpose(0, 1));
  writer.dataset("state/phi/half", (at::arange(300) * 0.37).to(at::kBFloat16));
  writer.dataset("state/long", at::tensor({int64_t{1} << 40, int64_t{-1}}));
  for (int i = 0; i < 20; ++i) writer.dataset(fmt::format("many/{:02}", i), at::full({i}, i, at::kInt));
  writer.dataset("scalar", at::tensor(2.5, at::kDouble).reshape({}));
  writer.text("caption", "caf\xC3\xA9");
  writer.commit();
}

TEST(Hdf5File, ContentComesBackBitForBit) {
  const TestFolder folder;
  write_sample(folder / "a.h5");
  const Hdf5Reader reader(folder / "a.h5", kFormat, 3);
  EXPECT_EQ(reader.attribute_text("prompt"), "a red circle \xE2\x82\xAC");
  EXPECT_EQ(reader.attribute_text("empty"), "");
  EXPECT_EQ(reader.attribute_int("steps"), -50);
  EXPECT_EQ(reader.attribute_double("guidance"), 5.25);
  const at::Tensor weight = at::arange(24).reshape({2, 3, 4}).to(at::kFloat).transpose(0, 1);
  EXPECT_TRUE(at::equal(reader.dataset("state/phi/weight"), weight));
  EXPECT_TRUE(at::equal(reader.rows("state/phi/weight", 1, 2), weight.slice(0, 1, 3)));
  EXPECT_TRUE(at::equal(reader.dataset("state/phi/half"), (at::arange(300) * 0.37).to(at::kBFloat16)));
  EXPECT_EQ(reader.dataset("state/long")[0].item<int64_t>(), int64_t{1} << 40);
  EXPECT_EQ(reader.dataset("many/00").numel(), 0);
  EXPECT_EQ(reader.dataset("scalar").dim(), 0);
  EXPECT_EQ(reader.text("caption"), "caf\xC3\xA9");
  EXPECT_EQ(reader.shape("state/phi/weight"), (std::vector<int64_t>{3, 2, 4}));
  EXPECT_TRUE(reader.has("many/19"));
  EXPECT_FALSE(reader.has("many"));
  EXPECT_EQ(reader.datasets().size(), 25u);
  EXPECT_EQ(hdf5_format(folder / "a.h5"), (std::pair<std::string, int64_t>(kFormat, 3)));
}

TEST(Hdf5File, EqualContentGivesEqualBytes) {
  const TestFolder folder;
  write_sample(folder / "a.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // time stamps count whole seconds
  write_sample(folder / "b.h5");
  EXPECT_EQ(read_raw(folder / "a.h5"), read_raw(folder / "b.h5"));
}

TEST(Hdf5File, AnUncommittedFileNeverAppears) {
  const TestFolder folder;
  {
    Hdf5Writer writer(folder / "a.h5", kFormat, 1);
    writer.dataset("x", at::ones({10}));
    EXPECT_FALSE(std::filesystem::exists(folder / "a.h5"));
  }
  EXPECT_EQ(folder.count(), 0u);
  expect_error(ExitCode::io, "writing failed", [&] { Hdf5Writer(folder / "none/a.h5", kFormat, 1); });
}

TEST(Hdf5File, OtherFilesAreRefused) {
  const TestFolder folder;
  write_sample(folder / "a.h5");
  expect_error(ExitCode::data, "holds \"surgery-test\"", [&] { Hdf5Reader(folder / "a.h5", "other", 3); });
  expect_error(ExitCode::data, "format version 3", [&] { Hdf5Reader(folder / "a.h5", kFormat, 4); });
  write_raw(folder / "text", "this is not HDF5");
  expect_error(ExitCode::data, "not a whole artifact", [&] { Hdf5Reader(folder / "text", kFormat, 3); });
  write_raw(folder / "nothing", "");
  expect_error(ExitCode::data, "not a whole artifact", [&] { hdf5_format(folder / "nothing"); });
  expect_error(ExitCode::io, "cannot be read", [&] { Hdf5Reader(folder / "missing", kFormat, 3); });
  expect_error(ExitCode::io, "not a regular file", [&] { Hdf5Reader(folder.path(), kFormat, 3); });
}

TEST(Hdf5File, MissingPartsAreNamed) {
  const TestFolder folder;
  write_sample(folder / "a.h5");
  const Hdf5Reader reader(folder / "a.h5", kFormat, 3);
  expect_error(ExitCode::data, "dataset \"nope\" is missing", [&] { reader.dataset("nope"); });
  expect_error(ExitCode::data, "\"steps\" is missing or of another type",
               [&] { reader.attribute_text("steps"); });
  expect_error(ExitCode::data, "not all in dataset", [&] { reader.rows("state/long", 1, 2); });
  expect_error(ExitCode::data, "is not text", [&] { reader.text("state/long"); });
}

TEST(Hdf5File, TruncatedFilesAreRefused) {
  const TestFolder folder;
  write_sample(folder / "a.h5");
  const std::string whole = read_raw(folder / "a.h5");
  for (size_t length = 0; length < whole.size(); length += 1 + length / 16) {
    write_raw(folder / "cut.h5", whole.substr(0, length));
    expect_error(ExitCode::data, "cut.h5", [&] { Hdf5Reader(folder / "cut.h5", kFormat, 3); });
  }
}

/// A foreign file whose one dataset "x" of bytes is laid out by `creation`, never written.
void write_foreign(const std::filesystem::path& path, const std::vector<hsize_t>& shape, hid_t creation) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
              space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
              dataset = H5Dcreate2(file, "x", H5T_STD_U8LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  EXPECT_GE(dataset, 0);
  H5Dclose(dataset), H5Sclose(space), H5Fclose(file), H5Pclose(creation);
}

TEST(Hdf5File, WhatTheFileDoesNotHoldIsNotAllocated) {
  const TestFolder folder;
  const auto refused = [&](const std::string& message) {
    EXPECT_LT(std::filesystem::file_size(folder / "x.h5"), 100'000u);
    expect_error(ExitCode::data, message, [&] { Hdf5Reader(folder / "x.h5", kFormat, 3); });
    expect_error(ExitCode::data, message, [&] { hdf5_format(folder / "x.h5"); });
  };
  const auto creation = [] { return H5Pcreate(H5P_DATASET_CREATE); };
  write_foreign(folder / "x.h5", {hsize_t{1} << 40}, creation());  // a tebibyte that was never written
  refused("reaches beyond the end of the file");
  write_foreign(folder / "x.h5", {0, hsize_t{1} << 62, hsize_t{1} << 62}, creation());
  refused("a shape is too large");
  const hid_t packed = creation();
  const hsize_t chunk = 1 << 30;
  H5Pset_chunk(packed, 1, &chunk), H5Pset_deflate(packed, 9);
  write_foreign(folder / "x.h5", {hsize_t{1} << 40}, packed);
  refused("not stored in one piece");
  write_raw(folder / "secret", std::string(64, 's'));
  const hid_t elsewhere = creation();
  H5Pset_external(elsewhere, (folder / "secret").c_str(), 0, 64);
  write_foreign(folder / "x.h5", {64}, elsewhere);
  refused("not stored in one piece");
  write_foreign(folder / "other.h5", {64}, creation());
  const hid_t file = H5Fcreate((folder / "x.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external((folder / "other.h5").c_str(), "/x", file, "link", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  refused("not a whole artifact");
}

TEST(Hdf5File, DatasetsShareNoBytes) {
  const TestFolder folder;
  {
    Hdf5Writer writer(folder / "a.h5", kFormat, 3);
    writer.dataset("x", at::arange(40));
    writer.commit();
  }
  Hdf5Reader(folder / "a.h5", kFormat, 3);
  const hid_t file = H5Fopen((folder / "a.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Lcreate_hard(file, "x", file, "y", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  expect_error(ExitCode::data, "two datasets share bytes", [&] { Hdf5Reader(folder / "a.h5", kFormat, 3); });
}

TEST(Hdf5File, AFlippedBitIsSeenOrChangesNothing) {
  const TestFolder folder;
  {
    Hdf5Writer writer(folder / "a.h5", kFormat, 3);
    writer.attribute("prompt", "a red circle");
    writer.dataset("group/x", at::arange(40));
    writer.commit();
  }
  const std::string whole = read_raw(folder / "a.h5");
  size_t refused = 0;
  for (size_t position = 0; position < whole.size(); ++position) {
    std::string damaged = whole;
    damaged[position] = static_cast<char>(damaged[position] ^ (1 << (position % 8)));
    write_raw(folder / "damaged.h5", damaged);
    try {
      const Hdf5Reader reader(folder / "damaged.h5", kFormat, 3);
      ASSERT_TRUE(at::equal(reader.dataset("group/x"), at::arange(40))) << position;
      ASSERT_EQ(reader.attribute_text("prompt"), "a red circle") << position;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::data) << error.what();
      ++refused;
    }
  }
  EXPECT_GE(refused, 320u) << "every byte of the data at least must count";
}

TEST(Hdf5File, DamagedDataIsSeenOnlyByTheFullCheck) {
  const TestFolder folder;
  {
    Hdf5Writer writer(folder / "a.h5", kFormat, 3);
    writer.text("caption", "needle in the haystack");
    writer.commit();
  }
  std::string bytes = read_raw(folder / "a.h5");
  bytes[bytes.find("needle")] = 'N';
  write_raw(folder / "a.h5", bytes);
  expect_error(ExitCode::data, "checksum differs in caption",
               [&] { Hdf5Reader(folder / "a.h5", kFormat, 3); });
  EXPECT_EQ(Hdf5Reader(folder / "a.h5", kFormat, 3, Hdf5Reader::Verify::header).text("caption")[0], 'N');
}

TEST(Hdf5File, ThreadsMayReadAndWriteAtOnce) {
  const TestFolder folder;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&folder, i] {
      for (int j = 0; j < 5; ++j) {
        const std::filesystem::path path = folder / fmt::format("{}-{}.h5", i, j);
        write_sample(path);
        EXPECT_EQ(Hdf5Reader(path, kFormat, 3).attribute_int("steps"), -50);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(folder.count(), 20u);
}

}  // namespace
}  // namespace surgery
