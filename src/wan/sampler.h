#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// Noise levels of a run: sigmas has steps + 1 values, the last 0; timesteps has `steps` values as the model
/// gets them.
struct Schedule {
  std::vector<double> sigmas;
  std::vector<double> timesteps;
};
/// The schedule of diffusers' UniPC with flow sigmas: from 1 in even steps towards 1/1000, then shifted; a
/// first sigma of 1 is lowered by 1e-6; t = 1000 sigma truncated to an integer. The sigmas are rounded to
/// fp32 as there (1 - sigma_0 depends on it by 1 %). Error{usage} for fewer than one step or a shift that is
/// not positive.
Schedule make_schedule(int64_t steps, double shift);

/// Any levels: sigmas fall from at most 1 to 0, which comes last; t = 1000 sigma, not truncated.
Schedule schedule_from_sigmas(std::vector<double> sigmas);

enum class SamplerKind { euler, euler_ancestral, unipc, dpmpp_2m };
/// "euler", "euler-ancestral", "unipc", "dpm++2m".
std::vector<std::string> sampler_names();
/// One of sampler_names(); Error{usage} otherwise.
SamplerKind parse_sampler(const std::string& name);
std::string to_string(SamplerKind kind);

/// A sampler over one schedule; keeps its own fp32 history. With x_sigma = (1 - sigma) x0 + sigma noise the
/// velocity is noise - x0.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// Advances x from sigma_i to sigma_{i+1} given the velocity at sigma_i; fp32. Steps are called in order
  /// from 0.
  virtual at::Tensor step(int64_t i, const at::Tensor& x, const at::Tensor& velocity) = 0;
};
/// `noise(i)` gives N(0,1) of x's shape for step i (Euler ancestral only), `eta` its share of fresh noise (0
/// = Euler).
std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const Schedule& schedule,
                                      std::function<at::Tensor(int64_t step)> noise = {}, double eta = 1);

}  // namespace surgery
