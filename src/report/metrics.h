#pragma once
#include <torch/torch.h>

#include <cstdint>
#include <span>

namespace surgery {

/// ||value - reference|| / ||reference|| over all elements, in fp64; the latent error of a student against
/// its teacher. 0 for equal tensors; infinity when only the reference is zero. Throws Error{data} for other
/// shapes.
double relative_error(const at::Tensor& value, const at::Tensor& reference);

/// Peak signal-to-noise ratio, decibels: 10 log10(peak^2 / mean squared difference) over the whole clip.
/// `peak` is the values' range: 2 for [-1, 1], 255 for bytes. Infinity for equal clips. Throws Error{data}
/// for other shapes.
double psnr(const at::Tensor& video, const at::Tensor& reference, double peak);

/// A share with its interval.
struct Proportion {
  int64_t successes = 0, trials = 0;
  double share = 0, low = 0, high = 1;  ///< 0..1
};

/// Wilson's score interval (Wilson 1927) at `z` standard deviations (1.96: 95 %): stays within [0, 1] and is
/// of use at shares of 0 and 1, where the normal interval is not. No trials: share 0 in [0, 1].
Proportion wilson_interval(int64_t successes, int64_t trials, double z = 1.959963984540054);

/// Mean and sample standard deviation (0 for fewer than two values); all zero for none.
struct MeanSpread {
  int64_t count = 0;
  double mean = 0, deviation = 0;
};
MeanSpread mean_and_spread(std::span<const double> values);

}  // namespace surgery
