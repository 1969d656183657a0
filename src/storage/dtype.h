#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace surgery {

/// Element types of the weight files that this program reads and writes.
enum class DType { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };
int64_t dtype_bytes(DType dtype);
std::string dtype_name(DType dtype);  ///< safetensors' name: "F32", "BF16", ...
std::optional<DType> dtype_named(
    std::string_view name);       ///< the inverse; none for a name that is not read here
size_t dtype_order(DType dtype);  ///< the order in which the reference writer of safetensors lays tensors out

/// What one weight file may hold: far more than any model has, little enough to refuse absurd files early.
constexpr size_t kTensorLimit = 1'000'000, kNameLimit = 1024, kRankLimit = 16;

/// Bytes of a tensor: product of its extents times the element size, 0 for an empty one. Extents are bounded
/// even beside a zero one, so that products over any of them cannot overflow. Throws Error{data}, its message
/// beginning with `where`.
uint64_t shape_bytes(const std::vector<int64_t>& shape, DType dtype, const std::string& where);

}  // namespace surgery
