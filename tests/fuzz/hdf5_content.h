#pragma once
#include <fuzzer/FuzzedDataProvider.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// What an HDF5 file of this program holds.
struct Hdf5Content {
  using Attribute = std::variant<int64_t, double, std::string>;
  std::map<std::string, Attribute> attributes;
  std::map<std::string, at::Tensor> datasets;
};

/// The files that Hdf5Writer writes and Hdf5Reader reads in a program with hdf5_in_memory.cpp.
std::map<std::filesystem::path, Hdf5Content>& hdf5_files();

inline Hdf5Content::Attribute odd_attribute(FuzzedDataProvider& input, size_t kind) {
  if (kind == 0)
    return input.PickValueInArray<int64_t>(
        {-1, 0, 1, 2, 3, 5, 1 << 20, INT64_MAX, INT64_MIN, input.ConsumeIntegral<int64_t>()});
  if (kind == 1) return input.ConsumeFloatingPoint<double>();
  const std::string text = input.ConsumeRandomLengthString(20);
  return text.substr(0, text.find('\0'));  // readers would cut it there
}

/// The same type and shape or others, of up to six axes, and the input's bytes.
inline at::Tensor odd_tensor(FuzzedDataProvider& input, at::ScalarType dtype, std::vector<int64_t> shape) {
  if (input.ConsumeBool())
    dtype = input.PickValueInArray({at::kDouble, at::kFloat, at::kBFloat16, at::kLong, at::kInt, at::kByte});
  if (input.ConsumeBool()) {
    shape.resize(input.ConsumeIntegralInRange<size_t>(0, 6));
    for (int64_t& size : shape) size = input.ConsumeIntegralInRange<int64_t>(0, 4);
  }
  at::Tensor tensor = at::empty(shape, dtype);
  auto bytes = input.ConsumeBytes<uint8_t>(tensor.nbytes());
  bytes.resize(tensor.nbytes());
  if (!bytes.empty()) std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

/// Equal bit for bit, NaN too.
inline bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

}  // namespace surgery
