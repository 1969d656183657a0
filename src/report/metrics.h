#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace surgery {

/// ||value - reference|| / ||reference|| over all elements, in fp64; the latent error of a student against
/// its teacher. 0 for equal tensors; infinity when only the reference is zero. Throws Error{data} for other
/// shapes.
double relative_error(const at::Tensor& value, const at::Tensor& reference);

/// Peak signal-to-noise ratio, decibels: 10 log10(peak^2 / mean squared difference) over the whole clip.
/// `peak` is the values' range: 2 for [-1, 1], 255 for bytes. Infinity for equal clips. Throws Error{data}
/// for other shapes.
double psnr(const at::Tensor& video, const at::Tensor& reference, double peak);
/// What is written for equal clips, and at most: JSON and means hold no infinity.
inline constexpr double kMostDecibels = 106;

}  // namespace surgery
