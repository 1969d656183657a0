#pragma once
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace surgery {

/// Noise levels of a run: sigmas has steps + 1 values, the last 0; timesteps has `steps` values as the model gets them.
struct Schedule {
  std::vector<double> sigmas;
  std::vector<double> timesteps;
};
/// Schedule C of wan21.md 6.4 (diffusers' UniPC with flow sigmas): first sigma lowered by 1e-6, t truncated to int.
Schedule make_schedule(int64_t steps, double shift);

enum class SamplerKind { euler, euler_ancestral, unipc };
SamplerKind parse_sampler(const std::string& name);  ///< "euler", "euler-ancestral", "unipc"
std::string to_string(SamplerKind kind);

/// A sampler over one schedule; keeps its own fp32 history.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// Advances x from sigma_i to sigma_{i+1} given the velocity at sigma_i. Steps are called in order from 0.
  virtual at::Tensor step(int64_t i, const at::Tensor& x, const at::Tensor& velocity) = 0;
};
/// `noise(i)` gives N(0,1) of x's shape for step i (Euler ancestral only).
std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const Schedule& schedule,
                                      std::function<at::Tensor(int64_t step)> noise = {});

}  // namespace surgery
