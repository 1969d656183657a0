#pragma once
#include "base/tensor.h"

namespace surgery {

/// The noise level that a share u of the way becomes: shift u / (1 + (shift - 1) u), which is 0 and 1 where u
/// is. Applied once; a level that is shifted already must not come here again.
double shifted_level(double u, double shift);

/// A clip on its way to noise, as flow matching shows it to the model.
struct FlowSample {
  at::Tensor input;     ///< (1 - sigma) clip + sigma noise
  at::Tensor target;    ///< the velocity, noise - clip
  double timestep = 0;  ///< 1000 sigma, neither cut nor rounded
};
/// `clip` and `noise` of one shape, fp32, normalised latents and N(0, 1).
FlowSample flow_sample(const at::Tensor& clip, const at::Tensor& noise, double sigma);

}  // namespace surgery
