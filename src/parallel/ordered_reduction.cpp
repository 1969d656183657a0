#include "parallel/ordered_reduction.h"

#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr int64_t tile = 1024;  // elements: the accumulators stay in the first-level cache

template <class Accumulator>
void combine(Reduction reduction, Accumulator* into, const auto* row, int64_t count) {
  switch (reduction) {
    case Reduction::sum:
    case Reduction::mean:
      for (int64_t i = 0; i < count; ++i) into[i] += static_cast<Accumulator>(row[i]);
      return;
    case Reduction::max:  // written so that a NaN on either side wins
      for (int64_t i = 0; i < count; ++i) {
        const Accumulator value = static_cast<Accumulator>(row[i]);
        into[i] = into[i] != into[i] || into[i] > value ? into[i] : value;
      }
      return;
    case Reduction::min:
      for (int64_t i = 0; i < count; ++i) {
        const Accumulator value = static_cast<Accumulator>(row[i]);
        into[i] = into[i] != into[i] || into[i] < value ? into[i] : value;
      }
      return;
  }
}

/// Where the divisor is a power of two, its inverse is exact, and multiplying is quicker.
template <class Accumulator>
void divide(Accumulator* sums, int64_t count, size_t by) {
  const auto divisor = static_cast<Accumulator>(by);
  if (std::has_single_bit(by)) {
    const Accumulator inverse = 1 / divisor;
    for (int64_t i = 0; i < count; ++i) sums[i] *= inverse;
  } else {
    for (int64_t i = 0; i < count; ++i) sums[i] /= divisor;
  }
}

template <class Element, class Accumulator>
void reduce(Reduction reduction, const std::vector<const std::byte*>& rows, int64_t count, std::byte* out) {
  std::array<Accumulator, tile> sums;
  for (int64_t begin = 0; begin < count; begin += tile) {
    const int64_t width = std::min(tile, count - begin);
    const auto row = [&](size_t r) { return reinterpret_cast<const Element*>(rows[r]) + begin; };
    for (int64_t i = 0; i < width; ++i) sums[static_cast<size_t>(i)] = static_cast<Accumulator>(row(0)[i]);
    for (size_t r = 1; r < rows.size(); ++r) combine(reduction, sums.data(), row(r), width);
    if constexpr (std::is_floating_point_v<Accumulator>)
      if (reduction == Reduction::mean) divide(sums.data(), width, rows.size());
    Element* target = reinterpret_cast<Element*>(out) + begin;
    for (int64_t i = 0; i < width; ++i) target[i] = static_cast<Element>(sums[static_cast<size_t>(i)]);
  }
}

}  // namespace

void reduce_in_rank_order(at::ScalarType type, Reduction reduction, const std::vector<const std::byte*>& rows,
                          int64_t count, std::byte* out) {
  EXPECT(!rows.empty());
  EXPECT(reduction != Reduction::mean || at::isFloatingType(type));
  switch (type) {
    case at::kFloat:
      return reduce<float, double>(reduction, rows, count, out);
    case at::kDouble:
      return reduce<double, double>(reduction, rows, count, out);
    case at::kBFloat16:
      return reduce<at::BFloat16, float>(reduction, rows, count, out);
    case at::kLong:
      return reduce<int64_t, int64_t>(reduction, rows, count, out);
    case at::kByte:
      return reduce<uint8_t, uint8_t>(reduction, rows, count, out);
    default:
      fail(ExitCode::internal,
           "ranks cannot reduce tensors of {} (fp32, fp64, bf16, int64 and uint8 can): convert first",
           at::toString(type));
  }
}

}  // namespace surgery
