#include "data/clip_window.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace surgery {

int Orientation::clockwise_degrees() const {
  if (transpose) return flip_x ? 90 : 270;
  return flip_y ? 180 : 0;
}

Orientation orientation_of(double a, double b, double c, double d) {
  if (std::abs(b) + std::abs(c) > std::abs(a) + std::abs(d)) return {true, c < 0, b < 0};
  return {false, a < 0, d < 0};
}

Box to_stored(const Box& displayed, const Orientation& orientation, int64_t width, int64_t height) {
  if (orientation.transpose) std::swap(width, height);  // now as displayed
  Box box = displayed;
  if (orientation.flip_x) std::tie(box.x0, box.x1) = std::pair(width - displayed.x1, width - displayed.x0);
  if (orientation.flip_y) std::tie(box.y0, box.y1) = std::pair(height - displayed.y1, height - displayed.y0);
  if (orientation.transpose) {
    std::swap(box.x0, box.y0);
    std::swap(box.x1, box.y1);
  }
  return box;
}

namespace {
int64_t centred_even(int64_t begin, int64_t room, int64_t length) {
  const int64_t offset = begin + (room - length) / 2;
  const int64_t even = offset & ~int64_t{1};
  return even < begin ? offset : even;
}
}  // namespace

Box covering_crop(const Box& within, double pixel_aspect, int64_t target_width, int64_t target_height) {
  const double aspect = static_cast<double>(target_width) / static_cast<double>(target_height) / pixel_aspect;
  const int64_t width =
      std::clamp<int64_t>(std::llround(static_cast<double>(within.height()) * aspect), 1, within.width());
  const int64_t height =
      std::clamp<int64_t>(std::llround(static_cast<double>(within.width()) / aspect), 1, within.height());
  Box box = within;
  if (width < within.width()) {
    box.x0 = centred_even(within.x0, within.width(), width);
    box.x1 = box.x0 + width;
  } else if (height < within.height()) {
    box.y0 = centred_even(within.y0, within.height(), height);
    box.y1 = box.y0 + height;
  }
  return box;
}

int64_t largest_causal_length(int64_t frames) {
  return frames < 1 ? 0 : (frames - 1) / 4 * 4 + 1;
}

bool is_causal_length(int64_t frames) {
  return frames >= 1 && (frames - 1) % 4 == 0;
}

}  // namespace surgery
