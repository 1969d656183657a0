#include "wan/rope.h"

#include <cmath>

#include "base/errors.h"

namespace surgery {

std::array<int64_t, 3> rope_split(int64_t head_dim) {
  const int64_t side = 2 * (head_dim / 6);
  return {head_dim - 2 * side, side, side};
}

std::vector<double> rope_frequencies(int64_t dim, double theta) {
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  for (size_t j = 0; j < frequencies.size(); ++j)
    frequencies[j] = std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(dim));
  return frequencies;
}

at::Tensor rope_table(const std::array<int64_t, 3>& grid, int64_t head_dim, at::Device device) {
  EXPECT(head_dim % 2 == 0);
  const auto split = rope_split(head_dim);
  std::vector<at::Tensor> parts;
  for (size_t axis = 0; axis < 3; ++axis) {
    const auto frequencies = at::tensor(rope_frequencies(split[axis]), at::kDouble);
    std::array<int64_t, 4> shape{1, 1, 1, split[axis] / 2};
    shape[axis] = grid[axis];
    const auto angles = at::outer(at::arange(grid[axis], at::kDouble), frequencies).view(shape);
    parts.push_back(angles.expand({grid[0], grid[1], grid[2], split[axis] / 2}));
  }
  const auto angles = at::cat(parts, 3).view({1, grid[0] * grid[1] * grid[2], 1, head_dim / 2});
  return at::polar(at::ones_like(angles), angles).to(at::kComplexFloat).to(device);
}

at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& table) {
  const auto pairs = x.to(at::promote_types(x.scalar_type(), at::kFloat)).unflatten(3, {x.size(3) / 2, 2});
  return at::view_as_real(at::view_as_complex(pairs) * table).flatten(3).to(x.scalar_type());
}

at::Tensor RopeCache::get(const std::array<int64_t, 3>& grid, int64_t head_dim, at::Device device) {
  const std::lock_guard lock(mutex_);
  for (const auto& entry : entries_)
    if (entry.grid == grid && entry.head_dim == head_dim && entry.device == device) return entry.table;
  // A run meets a handful of grids; a stream of ever new ones must not fill the memory.
  if (entries_.size() >= 8) entries_.erase(entries_.begin());
  entries_.push_back({grid, head_dim, device, rope_table(grid, head_dim, device)});
  return entries_.back().table;
}

}  // namespace surgery
