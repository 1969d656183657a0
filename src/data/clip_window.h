#pragma once
#include <cstdint>

namespace surgery {

/// Half-open pixel box [x0, x1) x [y0, y1).
struct Box {
  int64_t x0 = 0, x1 = 0, y0 = 0, y1 = 0;
  int64_t width() const { return x1 - x0; }
  int64_t height() const { return y1 - y0; }
  bool operator==(const Box&) const = default;
};

/// Half-open range of source frames; end < 0 is the end of the file.
struct FrameRange {
  int64_t begin = 0, end = -1;
  bool operator==(const FrameRange&) const = default;
};

/// How a stored picture becomes the displayed one: first transposed, then mirrored.
struct Orientation {
  bool transpose = false, flip_x = false, flip_y = false;
  int clockwise_degrees() const;  ///< of a pure rotation; a mirrored one gives its rotation part
  bool operator==(const Orientation&) const = default;
};

/// From the linear part of a display matrix: x' = a x + c y, y' = b x + d y (only signs and the larger pair
/// count).
Orientation orientation_of(double a, double b, double c, double d);

/// A box of displayed pixels as stored pixels, for a stored picture of `width` x `height`.
Box to_stored(const Box& displayed, const Orientation& orientation, int64_t width, int64_t height);

/// The largest centred box inside `within` that has the aspect of `target_width` x `target_height` on screen,
/// for pixels `pixel_aspect` times as wide as high. Offsets are even, so that subsampled chroma stays in
/// place.
Box covering_crop(const Box& within, double pixel_aspect, int64_t target_width, int64_t target_height);

/// The largest 4k+1 not above `frames` (the causal VAE takes 1 + 4k frames); 0 when there is none.
int64_t largest_causal_length(int64_t frames);

/// True for 1, 5, 9, ...
bool is_causal_length(int64_t frames);

}  // namespace surgery
