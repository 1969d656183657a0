#include "storage/torch_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "storage/tensor_store.h"
#include "test_folder.h"
#include "torch_archive.h"

namespace surgery {
namespace {

const std::string kFour("\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40",
                        16);  // fp32 1, 2, 3, 4
const std::string kStorage = storage_op("FloatStorage", "0", 4);

std::string archive(const std::string& ops, const std::vector<std::string>& storages = {kFour}) {
  return build_zip(torch_parts(pickle_of(ops), storages)).bytes;
}
TorchContent read(const std::string& bytes) {
  return read_torch_content(std::as_bytes(std::span(bytes)), "a.pth");
}
void expect_refused(const std::string& bytes, const std::string& message) {
  expect_error(ExitCode::data, message, [&] { read(bytes); });
}
std::string one_tensor(const std::string& tensor) {
  return archive(dict_op(text_op("w") + tensor));
}

TEST(TorchFile, TensorsAreViewsOfTheMap) {
  const TestFolder folder;
  write_raw(folder / "a", archive(dict_op(text_op("whole") + tensor_op(kStorage, 0, {2, 2}, {2, 1}) +
                                          text_op("turned") + tensor_op(kStorage, 0, {2, 2}, {1, 2}) +
                                          text_op("last") + tensor_op(kStorage, 3, {}, {}) + text_op("none") +
                                          tensor_op(kStorage, 4, {0, 2}, {2, 1}) + text_op("every second") +
                                          tensor_op(kStorage, 1, {2}, {2}) + text_op("step") + int_op(7))));
  at::Tensor whole, turned;
  {
    const TensorStore store = TensorStore::open_file(folder / "a");
    EXPECT_EQ(store.names(), (std::vector<std::string>{"every second", "last", "none", "turned", "whole"}));
    whole = store.get("whole");
    turned = store.get("turned");
    EXPECT_EQ(whole.data_ptr(), turned.data_ptr()) << "a copy was made";
    EXPECT_EQ(store.get("last").item<float>(), 4);
    EXPECT_EQ(store.get("none").sizes(), (std::vector<int64_t>{0, 2}));
    EXPECT_TRUE(at::equal(store.get("every second"), at::tensor({2.0f, 4.0f})));
  }
  EXPECT_TRUE(at::equal(whole, at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).reshape({2, 2})));
  EXPECT_TRUE(at::equal(turned, whole.t()));
  const auto file = TorchFile::open(folder / "a");
  EXPECT_EQ(file->metadata().at("step"), "7");
  EXPECT_EQ(file->key(), "");
  EXPECT_EQ(file->bytes("every second").size(), 12u) << "from the first element to behind the last";
  expect_error(ExitCode::data, "tensor \"x\" is missing", [&] { file->bytes("x"); });
}

TEST(TorchFile, UnalignedStoragesAreCopied) {
  const TestFolder folder;
  std::vector<ZipPart> parts =
      torch_parts(pickle_of(dict_op(text_op("w") + tensor_op(kStorage, 1, {2}, {2}))), {kFour});
  for (ZipPart& part : parts) part.shift = 1;
  write_raw(folder / "a", build_zip(parts).bytes);
  EXPECT_TRUE(at::equal(TensorStore::open_file(folder / "a").get("w"), at::tensor({2.0f, 4.0f})));
}

TEST(TorchFile, ATensorAloneIsReadWhereOneIsAskedFor) {
  const std::string bytes = archive(tensor_op(kStorage, 1, {3}, {1}));
  const auto owner = std::make_shared<std::string>("x" + bytes);  // not aligned: a copy
  const auto in_memory = std::as_bytes(std::span(*owner)).subspan(1);
  EXPECT_TRUE(at::equal(view_torch_tensor(owner, in_memory, "a"), at::tensor({2.0f, 3.0f, 4.0f})));
  const TorchEntry entry = read_torch_tensor(in_memory, "a");
  EXPECT_EQ(entry.shape, std::vector<int64_t>{3});
  EXPECT_EQ(entry.end - entry.begin, 12u);
  const auto refused = [](const std::string& file, const std::string& message) {
    expect_error(ExitCode::data, message, [&] { read_torch_tensor(std::as_bytes(std::span(file)), "m.pt"); });
  };
  refused(one_tensor(tensor_op(kStorage, 0, {4}, {1})), "m.pt: holds a dict, not one tensor");
  refused(archive(tensor_op(kStorage, 0, {5}, {1})), "leaves its storage");
  refused(archive("]"), "not one tensor");
  refused(archive("cos\nsystem\n" + text_op("id") + "\x85R"), "wants to import os.system");
  refused(bytes.substr(0, bytes.size() - 1), "m.pt: ");
  refused("no archive", "m.pt: does not begin like a zip archive");
}

TEST(TorchFile, ParametersAndNestedDictsAreRead) {
  const std::string tensor = tensor_op(kStorage, 0, {4}, {1});
  const std::string parameter = "ctorch._utils\n_rebuild_parameter\n(" + tensor +
                                "\x88"
                                "ccollections\nOrderedDict\n)RtR";
  EXPECT_EQ(read(one_tensor(parameter)).entries.at("w").shape, (std::vector<int64_t>{4}));
  const TorchContent nested = read(
      archive(dict_op(text_op("epoch") + int_op(3) + text_op("optimizer") + dict_op(text_op("state") + "}") +
                      text_op("state_dict") + dict_op(text_op("w") + tensor))));
  EXPECT_EQ(nested.key, "state_dict");
  EXPECT_TRUE(nested.entries.contains("w"));
  const std::string two = dict_op(text_op("w") + tensor);
  expect_refused(archive(dict_op(text_op("model") + two + text_op("ema") + two)),
                 "several dicts of tensors (\"model\", \"ema\"");
  expect_refused(archive(dict_op(text_op("w") + tensor + text_op("more") + two)),
                 "\"more\" beside the tensors is a dict");
  expect_refused(archive(dict_op(text_op("a") + dict_op(text_op("b") + two))), "holds no tensors");
  expect_refused(archive("}"), "holds no tensors");
  expect_refused(archive("]"), "holds a list, not a dict");
  expect_refused(archive(tensor), "holds a called object, not a dict");
  expect_refused(archive(dict_op(int_op(1) + tensor)), "a key is a int");
  expect_refused(archive(dict_op(text_op("w") + tensor + text_op("w") + tensor)), "\"w\" occurs twice");
  expect_refused(archive(dict_op(text_op(std::string(2000, 'n')) + tensor)), "longer than 1024");
  expect_refused(archive(dict_op(text_op("w") + tensor + text_op("s") + text_op(std::string(2000, 'n')))),
                 "is a str");
}

TEST(TorchFile, PlainValuesBesideTensorsBecomeText) {
  const auto content = read(
      archive(dict_op(text_op("w") + tensor_op(kStorage, 0, {4}, {1}) + text_op("t") + "\x88" + text_op("n") +
                      "N" + text_op("r") + "G\x3f\xf8" + little(0, 6) + text_op("s") + text_op("né"))));
  using Texts = std::map<std::string, std::string>;
  EXPECT_EQ(content.metadata, (Texts{{"n", "none"}, {"r", "1.5"}, {"s", "né"}, {"t", "true"}}));
}

TEST(TorchFile, ViewsOutsideTheirStorageAreRefused) {
  const auto view = [](int64_t offset, const std::vector<int64_t>& shape,
                       const std::vector<int64_t>& strides) {
    return one_tensor(tensor_op(kStorage, offset, shape, strides));
  };
  for (const std::string& bytes :
       {view(1, {2, 2}, {2, 1}), view(0, {5}, {1}), view(4, {1}, {1}), view(0, {2}, {4}), view(5, {0}, {1}),
        view(INT64_MAX, {1}, {1}), view(0, {2}, {INT64_MAX}), view(3, {2, 2}, {INT64_MAX, INT64_MAX}),
        view(0, {3, 3, 3}, {INT64_MAX, INT64_MAX, INT64_MAX}), view(INT64_MAX, {0}, {1})})
    expect_refused(bytes, "it leaves its storage");
  expect_refused(view(0, {1'000'000'000}, {0}), "more than once");
  expect_refused(view(0, {5, 1}, {0, 0}), "more than once");
  expect_refused(view(0, {INT64_MAX, INT64_MAX}, {0, 0}), "more elements than can be counted");
  expect_refused(view(0, {INT64_MAX, INT64_MAX, 0}, {0, 0, 0}), "more elements than can be counted");
  expect_refused(view(-1, {1}, {1}), "not a whole number");
  expect_refused(view(0, {-1}, {1}), "not a whole number");
  expect_refused(view(0, {2}, {-1}), "not a whole number");
  expect_refused(view(0, {2}, {1, 1}), "differ in length");
  expect_refused(view(0, std::vector<int64_t>(17, 1), std::vector<int64_t>(17, 1)), "too many axes");
}

TEST(TorchFile, StoragesAreWholeRecords) {
  const auto with = [](const std::string& storage, const std::vector<std::string>& records = {kFour}) {
    return archive(dict_op(text_op("w") + tensor_op(storage, 0, {1}, {1})), records);
  };
  expect_refused(with(storage_op("FloatStorage", "0", 3)), "another size than its record");
  expect_refused(with(storage_op("FloatStorage", "0", 5)), "another size than its record");
  expect_refused(with(storage_op("DoubleStorage", "0", 4)), "another size than its record");
  expect_refused(with(storage_op("FloatStorage", "0", INT64_MAX)), "another size than its record");
  expect_refused(with(storage_op("FloatStorage", "0", 4), {}), "record \"data/0\" is missing");
  expect_refused(with(storage_op("FloatStorage", "../data.pkl", 4)), "is missing");
  expect_refused(with("N"), "it has no storage");
  expect_refused(with("NQ"), "storage is not described");
  expect_refused(with("(" + text_op("storage") + "tQ"), "storage is not described");
  expect_refused(with("(NNNNNtQ"), "storage is not described");
  expect_refused(with("(" + text_op("storage") + "ccollections\nOrderedDict\n" + text_op("0") +
                      text_op("cpu") + int_op(4) + "tQ"),
                 "has no type");
}

TEST(TorchFile, WhatStateDictsDoNotNeedIsRefused) {
  const std::string touch = text_op("touch /tmp/owned") + "\x85R";
  expect_refused(archive(dict_op(text_op("w") + "cos\nsystem\n" + touch)),
                 "a.pth: data.pkl: wants to import os.system");
  expect_refused(archive("cbuiltins\nexec\n" + touch), "wants to import builtins.exec");
  expect_refused(archive(dict_op(text_op("a") + "cargparse\nNamespace\n)R")), "argparse.Namespace");
  expect_refused(one_tensor(tensor_op(storage_op("ComplexFloatStorage", "0", 2), 0, {1}, {1})),
                 "a dtype that is not read");
  expect_refused(one_tensor("ctorch._utils\n_rebuild_tensor_v3\n)R"), "8-bit float");
  expect_refused(one_tensor("ctorch._utils\n_rebuild_tensor_v2\n)R"), "not made as torch.save does");
  expect_refused(one_tensor("ctorch._utils\n_rebuild_parameter\n)R"), "a parameter without its tensor");
  expect_refused(one_tensor("ctorch._utils\n_rebuild_parameter\nNNN\x87R"), "a parameter without its tensor");
  std::string conjugate = tensor_op(kStorage, 0, {4}, {1});
  conjugate.replace(conjugate.size() - 2, 2, "}" + text_op("conj") + "\x88stR");
  expect_refused(one_tensor(conjugate), "a conjugate or negative view");
}

TEST(TorchFile, ForeignArchivesAreNamed) {
  const std::string pickle = pickle_of(dict_op(text_op("w") + tensor_op(kStorage, 0, {4}, {1})));
  const auto zip = [](const std::vector<ZipPart>& parts) { return build_zip(parts).bytes; };
  expect_refused(zip({{"a/other", "x"}}), "without data.pkl");
  expect_refused(zip({{"data.pkl", pickle}}), "without data.pkl");
  expect_refused(zip({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}}), "two data.pkl");
  expect_refused(zip({{"a/data.pkl", pickle}, {"b/data/0", kFour}}), "record \"data/0\" is missing");
  expect_refused(zip({{"a/data.pkl", pickle}, {"a/data/0", kFour}, {"a/byteorder", "big"}}), "byte order");
  expect_refused(zip({{"a/data.pkl", pickle}, {"a/data/0", kFour}, {"a/constants.pkl", "x"}}), "TorchScript");
  expect_refused("nonsense", "does not begin like a zip archive");
  const std::string magic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);
  expect_refused("\x80\x02" + magic + ".", "before torch 1.6");
  expect_refused("\x80\x04\x95" + little(13, 8) + magic + ".", "torch.save(torch.load('OLD.pth'");
}

TEST(TorchFile, TruncatedAnywhereIsRefused) {
  const TestFolder folder;
  const std::string whole = one_tensor(tensor_op(kStorage, 0, {4}, {1}));
  EXPECT_EQ(read(whole).entries.size(), 1u);
  for (size_t length = 0; length < whole.size(); ++length) expect_refused(whole.substr(0, length), "a.pth: ");
  write_raw(folder / "cut", whole.substr(0, whole.size() / 2));
  expect_error(ExitCode::data, "cut: has no zip directory", [&] { TensorStore::open_file(folder / "cut"); });
}

TEST(TorchFile, NoSingleByteMakesItReadElsewhere) {
  const std::string whole = one_tensor(tensor_op(kStorage, 0, {2, 2}, {1, 2}));
  for (size_t position = 0; position < whole.size(); ++position)
    for (const int change : {0x01, 0x40, 0xff}) {
      std::string bytes = whole;
      bytes[position] = static_cast<char>(bytes[position] ^ change);
      try {
        for (const auto& [name, entry] : read(bytes).entries)
          ASSERT_TRUE(entry.begin <= entry.end && entry.end <= bytes.size()) << position;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ExitCode::data) << error.what();
      }
    }
}

TEST(TorchFile, TheContainerIsFoundByItsContent) {
  const TestFolder folder;
  write_raw(folder / "a.safetensors", one_tensor(tensor_op(kStorage, 0, {4}, {1})));
  EXPECT_EQ(TensorStore::open_file(folder / "a.safetensors").get("w").numel(), 4);
  save_tensors(folder / "a.pth", {{"v", at::ones({3})}});
  EXPECT_EQ(TensorStore::open_file(folder / "a.pth").get("v").numel(), 3);
  // A safetensors file whose header's length reads "PK\3\4": 67,324,752 bytes of it, most of them spaces.
  const std::string header = R"({"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  write_raw(folder / "b",
            std::string("PK\3\4\0\0\0\0", 8) + header + std::string(0x04034b50 - header.size(), ' ') + "x");
  EXPECT_EQ(TensorStore::open_file(folder / "b").get("v").item<uint8_t>(), 'x');
  write_raw(folder / "empty", "");
  expect_error(ExitCode::data, "too few", [&] { TensorStore::open_file(folder / "empty"); });
  expect_error(ExitCode::io, "cannot be read", [&] { TorchFile::open(folder / "none"); });
}

}  // namespace
}  // namespace surgery
