#include "storage/dtype.h"

#include <algorithm>
#include <array>

#include "base/errors.h"

namespace surgery {
namespace {

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t bytes;
};
/// Widest first: the reference writer's order.
constexpr std::array<DTypeRow, 10> kDTypes{{{DType::i64, "I64", 8},
                                            {DType::f64, "F64", 8},
                                            {DType::f32, "F32", 4},
                                            {DType::i32, "I32", 4},
                                            {DType::bf16, "BF16", 2},
                                            {DType::f16, "F16", 2},
                                            {DType::i16, "I16", 2},
                                            {DType::i8, "I8", 1},
                                            {DType::u8, "U8", 1},
                                            {DType::boolean, "BOOL", 1}}};

}  // namespace

size_t dtype_order(DType dtype) {
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                [&](const DTypeRow& known) { return known.dtype == dtype; });
  EXPECT(row != kDTypes.end());
  return static_cast<size_t>(row - kDTypes.begin());
}

int64_t dtype_bytes(DType dtype) {
  return kDTypes[dtype_order(dtype)].bytes;
}

std::string dtype_name(DType dtype) {
  return kDTypes[dtype_order(dtype)].name;
}

std::optional<DType> dtype_named(std::string_view name) {
  for (const DTypeRow& row : kDTypes)
    if (name == row.name) return row.dtype;
  return std::nullopt;
}

uint64_t shape_bytes(const std::vector<int64_t>& shape, DType dtype, const std::string& where) {
  uint64_t size = static_cast<uint64_t>(dtype_bytes(dtype));
  bool empty = false, overflow = false;
  for (const int64_t extent : shape) {
    VALIDATE(extent >= 0, "{}: negative extent {} (damaged file): write it again", where, extent);
    if (extent == 0)
      empty = true;
    else
      overflow |= __builtin_mul_overflow(size, static_cast<uint64_t>(extent), &size);
  }
  VALIDATE(!overflow && size <= static_cast<uint64_t>(INT64_MAX),
           "{}: shape has more elements than can be counted (damaged or hostile file): check its source",
           where);
  return empty ? 0 : size;
}

}  // namespace surgery
