#pragma once
#include <string>
#include <vector>

#include "base/random.h"
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

/// How a training draws its noise levels before their shift, by diffusers' names (Esser et al. 2024):
///   uniform       v
///   logit_normal  sigmoid(mean + deviation n)
///   mode          1 - v - mode_scale (cos(pi v / 2)^2 - 1 + v)
/// with v uniform in [0, 1) and n ~ N(0, 1). These are noise levels, 1 = noise: a mean above 0 moves towards
/// noise, as in the paper. (diffusers' training scripts count timesteps downwards: there it moves away from
/// it.)
struct LevelDensity {
  std::string name = "uniform";
  double mean = 0, deviation = 1;
  double mode_scale = 1.29;
};
const std::vector<std::string>& level_density_names();
double draw_level(const LevelDensity& density, RandomStream& draws);  ///< in [0, 1]

/// What a training multiplies a sample's loss with, by its noise level sigma:
///   none        1
///   sigma_sqrt  1 / sigma^2, sigma at least 0.001 (diffusers' name, of a weight once under a root)
///   cosmap      2 / (pi (1 - 2 sigma + 2 sigma^2))
///   bell        exp(-2 (sigma - 1/2)^2) less its value at sigma 1, scaled to mean 1 over the 1000 levels
///               that the shift makes of 1, 0.999, ... (DiffSynth-Studio, there with shift 5)
class LossWeighting {
 public:
  LossWeighting(const std::string& name, double shift);  ///< Error{usage} for a name that is none of names()
  static const std::vector<std::string>& names();
  double at(double sigma) const;

 private:
  double (*weight_)(double sigma);
  double scale_ = 1;
};

}  // namespace surgery
