#include "wan/vae_tiles.h"

#include <algorithm>

namespace surgery {
namespace {

constexpr int64_t kRows = 3, kColumns = 4;  // axes of [B, C, T, H, W]

/// The last `count` rows or columns (all, where there are fewer), in memory of their own.
at::Tensor last(const at::Tensor& tile, int64_t axis, int64_t count) {
  count = std::min(count, tile.size(axis));
  return tile.narrow(axis, tile.size(axis) - count, count).clone();
}

/// The first rows or columns of `tile` go over from what `before` (the end of its neighbour) shows there to
/// its own: row y of n is `before` by 1 - y/n and `tile` by y/n.
void blend(const at::Tensor& before, const at::Tensor& tile, int64_t axis) {
  const int64_t count = std::min(before.size(axis), tile.size(axis));
  if (count == 0) return;
  std::vector<int64_t> shape(5, 1);
  shape[static_cast<size_t>(axis)] = count;
  const auto own =
      (at::arange(count, at::kDouble) / static_cast<double>(count)).view(shape).to(tile.device());
  const auto place = tile.narrow(axis, 0, count);
  const auto other = before.narrow(axis, before.size(axis) - count, count);
  // In fp32, so that 16-bit pictures are rounded once.
  place.copy_(other * (1 - own).to(at::kFloat) + place * own.to(at::kFloat));
}

}  // namespace

at::Tensor blended_tiles(const at::Tensor& x, const VaeTiling& from, const VaeTiling& to,
                         const std::function<at::Tensor(const at::Tensor&)>& part) {
  const int64_t height = x.size(kRows) * to.tile / from.tile, width = x.size(kColumns) * to.tile / from.tile;
  const int64_t overlap = to.tile - to.stride;
  at::Tensor whole;
  std::vector<at::Tensor> above;  // the ends of the row of tiles before, by column
  for (int64_t i = 0; i * from.stride < x.size(kRows); ++i) {
    at::Tensor left;
    for (int64_t j = 0; j * from.stride < x.size(kColumns); ++j) {
      const auto rows = x.slice(kRows, i * from.stride, i * from.stride + from.tile);
      const auto tile = part(rows.slice(kColumns, j * from.stride, j * from.stride + from.tile));
      if (!whole.defined())
        whole = at::empty({tile.size(0), tile.size(1), tile.size(2), height, width}, tile.options());
      if (i > 0) blend(above[static_cast<size_t>(j)], tile, kRows);
      if (j > 0) blend(left, tile, kColumns);
      const int64_t h = std::min(to.stride, tile.size(kRows)), w = std::min(to.stride, tile.size(kColumns));
      whole.narrow(kRows, i * to.stride, h)
          .narrow(kColumns, j * to.stride, w)
          .copy_(tile.narrow(kRows, 0, h).narrow(kColumns, 0, w));
      left = last(tile, kColumns, overlap);
      if (i == 0) above.emplace_back();
      above[static_cast<size_t>(j)] = last(tile, kRows, overlap);
    }
  }
  return whole;
}

}  // namespace surgery
