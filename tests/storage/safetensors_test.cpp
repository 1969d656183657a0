#include "storage/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "storage/tensor_store.h"
#include "test_folder.h"

namespace surgery {
namespace {

std::string container(const std::string& header, size_t data_bytes) {
  std::string bytes(8, 0);
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes + header + std::string(data_bytes, 'x');
}

void expect_refused(const std::string& bytes, const std::string& message) {
  const TestFolder folder;
  write_raw(folder / "a.safetensors", bytes);
  expect_error(ExitCode::data, message, [&] { SafetensorsFile::open(folder / "a.safetensors"); });
}

TEST(Safetensors, EveryDtypeComesBackBitForBit) {
  const TestFolder folder;
  TensorMap tensors;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                                    at::kShort, at::kChar, at::kByte, at::kBool})
    tensors[at::toString(type)] = at::arange(6).reshape({2, 3}).to(type);
  tensors["scalar"] = at::tensor(3.5f).reshape({});
  tensors["empty"] = at::empty({0, 4});
  tensors["strided"] = at::arange(12).reshape({3, 4}).t();
  save_tensors(folder / "a.safetensors", tensors, {{"format", "pt"}});
  const TensorStore store = TensorStore::open_file(folder / "a.safetensors");
  EXPECT_EQ(store.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = store.get(name);
    EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read.sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(at::equal(read, tensor)) << name;
  }
  EXPECT_EQ(SafetensorsFile::open(folder / "a.safetensors")->metadata().at("format"), "pt");
  EXPECT_EQ(folder.count(), 1u) << "a temporary was left behind";
}

TEST(Safetensors, EqualContentGivesEqualBytes) {
  const TestFolder folder;
  const TensorMap tensors{{"b", at::ones({3})}, {"a", at::zeros({2}, at::kLong)}};
  save_tensors(folder / "1", tensors);
  save_tensors(folder / "2", tensors);
  EXPECT_EQ(read_raw(folder / "1"), read_raw(folder / "2"));
  // The reference writer's layout: widest dtype first, header padded to 8 bytes.
  const std::string header =
      R"({"a":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[3],"data_offsets":[16,28]}})";
  EXPECT_EQ(read_raw(folder / "1").substr(8, header.size()), header);
  EXPECT_EQ(static_cast<size_t>(read_raw(folder / "1")[0]) % 8, 0u);
}

TEST(Safetensors, TensorsOutliveTheStore) {
  const TestFolder folder;
  save_tensors(folder / "a", {{"w", at::arange(1000)}});
  at::Tensor tensor;
  {
    const TensorStore store = TensorStore::open_file(folder / "a");
    tensor = store.get("w");
    EXPECT_EQ(tensor.data_ptr(), store.get("w").data_ptr()) << "a copy was made";
  }
  EXPECT_EQ(tensor.sum().item<int64_t>(), 499500);
}

TEST(Safetensors, UnalignedForeignTensorsAreRead) {
  const TestFolder folder;
  const float value = 2.5f;
  std::string bytes = container(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      5);
  std::memcpy(bytes.data() + bytes.size() - 4, &value, 4);
  write_raw(folder / "a", bytes);
  EXPECT_EQ(TensorStore::open_file(folder / "a").get("b").item<float>(), value);
}

TEST(Safetensors, TruncatedAnywhereIsRefused) {
  const TestFolder folder;
  save_tensors(folder / "whole", {{"w", at::arange(5)}, {"v", at::ones({2, 2})}});
  const std::string whole = read_raw(folder / "whole");
  for (size_t length = 0; length < whole.size(); ++length) {
    write_raw(folder / "cut", whole.substr(0, length));
    expect_error(ExitCode::data, "cut", [&] { SafetensorsFile::open(folder / "cut"); });
  }
  write_raw(folder / "cut", whole + "x");
  expect_error(ExitCode::data, "foreign bytes behind", [&] { SafetensorsFile::open(folder / "cut"); });
}

TEST(Safetensors, MalformedHeadersAreRefused) {
  const std::string fine = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  expect_refused(container("{" + fine + "," + fine + "}", 4), "occurs twice");
  expect_refused(container(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
                 "occurs twice");
  expect_refused(container(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "occurs twice");
  expect_refused(container(R"({"__metadata__":{"k":1}})", 0), "is not text");
  expect_refused(container(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1), "F8_E4M3");
  expect_refused(container(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
                 "do not hold the 8 bytes");
  expect_refused(container(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), "gap or overlap");
  expect_refused(container(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4),
                 "not a whole number");
  expect_refused(container(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
                 "not a whole number");
  expect_refused(
      container(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}})", 0),
      "more elements than can be counted");
  for (const char* shape :
       {"[4294967296,4294967296,0]", "[0,4294967296,4294967296]", "[9223372036854775807,0]"})
    expect_refused(
        container(fmt::format(R"({{"a":{{"dtype":"F32","shape":{},"data_offsets":[0,0]}}}})", shape), 0),
        "more elements than can be counted");
  for (const char* offsets : {"[18446744073709551612,0]", "[4,0]", "[0]", "[0,4,4]", "[0,\"4\"]", "[0,1e2]",
                              "[0,18446744073709551616]", "7"})
    expect_refused(
        container(fmt::format(R"({{"a":{{"dtype":"F32","shape":[1],"data_offsets":{}}}}})", offsets), 4),
        "tensor \"a\": ");
  const std::string second = R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":)";
  expect_refused(container("{" + fine + second + "[0,4]}}", 4), "gap or overlap");
  expect_refused(container("{" + fine + second + "[2,6]}}", 6), "gap or overlap");
  expect_refused(container("{" + fine + second + "[5,9]}}", 9), "gap or overlap");
  expect_refused(container("{" + fine + second + "[4,8]}}", 4), "tensors take 8 bytes but the file holds 4");
  expect_refused(container(R"({"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}})", 1),
                 "an 8-bit float");
  expect_refused(container(R"({"a":{"dtype":"U16","shape":[1],"data_offsets":[0,2]}})", 2), "dtype U16");
  expect_refused(container("", 0), "does not begin with '{'");
  expect_refused(container("{\"a\xc0\x80\":1}", 0), "not valid JSON");
  expect_refused(container("{\"a\\ud800\":1}", 0), "not valid JSON");
  expect_refused(container("{" + fine + "," + "}", 4), "not valid JSON");
  expect_refused(container("{/**/" + fine + "}", 4), "not valid JSON");
  expect_refused(
      container(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
                4),
      "17 axes");
  expect_refused(container(R"({"a":{"dtype":"F32","shape":[[[[1]]]],"data_offsets":[0,4]}})", 4),
                 "nested deeper");
  expect_refused(container("{" + fine + "}\n", 4), "foreign bytes");
  expect_refused(container(" {" + fine + "}", 4), "does not begin with '{'");
  expect_refused(container("{" + fine + "}{}", 4), "not valid JSON");
  expect_refused(container("{\"\xff\":1}", 0), "not valid JSON");
  expect_refused(container(R"({"a":7})", 0), "lacks dtype");
  expect_refused(std::string(8, '\xff') + "{}", "does not fit");
  expect_refused(
      container("{\"" + std::string(1025, 'n') + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
      "1025 bytes");
}

TEST(Safetensors, HeadersAboveTheLimitAreRefusedUnread) {
  const TestFolder folder;
  write_raw(folder / "a", container("{" + std::string(100'000'000, ' '), 0));
  expect_error(ExitCode::data, "header of 100000001 bytes", [&] { SafetensorsFile::open(folder / "a"); });
}

TEST(Safetensors, UnreadableFilesAreInputOutputErrors) {
  const TestFolder folder;
  expect_error(ExitCode::io, "cannot be read", [&] { SafetensorsFile::open(folder / "none"); });
  expect_error(ExitCode::io, "not a regular file", [&] { SafetensorsFile::open(folder.path()); });
  expect_error(ExitCode::io, "cannot be written", [&] { save_tensors(folder / "no/folder", {}); });
}

TEST(TensorStore, NamesWhatIsMissing) {
  const TestFolder folder;
  save_tensors(folder / "a", {{"b", at::zeros({3})}});
  const TensorStore store = TensorStore::open_file(folder / "a");
  EXPECT_EQ(store.names(), std::vector<std::string>{"b"});
  expect_error(ExitCode::data, "tensor \"c\" is missing", [&] { store.get("c"); });
}

TEST(LazyTensor, PiecesOfStridedTensorsAreTheirElements) {
  const at::Tensor whole = at::arange(5 * 3 * 4 * 2).reshape({5, 3, 4, 2});
  for (const at::Tensor& tensor : {whole, whole.permute({3, 1, 0, 2}), whole.transpose(0, 1),
                                   whole.slice(2, 1, 4, 2), whole.select(1, 1), whole[0][0][0][0]}) {
    const LazyTensor pieces = lazy(tensor);
    const at::Tensor flat = tensor.reshape(-1);
    for (int64_t begin = 0; begin < flat.numel(); ++begin)
      for (int64_t end = begin + 1; end <= flat.numel(); ++end)
        ASSERT_TRUE(at::equal(pieces.elements(begin, end), flat.slice(0, begin, end)))
            << begin << " to " << end << " of " << tensor.sizes();
  }
  // 4 TiB, were it copied whole.
  const LazyTensor endless = lazy(at::ones({1}).expand({1 << 20, 1 << 20}));
  EXPECT_EQ(endless.elements((int64_t{1} << 39) - 5, (int64_t{1} << 39) + 5).sum().item<float>(), 10);
}

}  // namespace
}  // namespace surgery
