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
/// The schedules that programs use with Wan2.1; no two are the same. With N steps and u_i their levels before
/// the shift, sigma_i = shift u_i / (1 + (shift - 1) u_i), each rounded to fp32 as there (for a first level
/// near 1, 1 - sigma_0 depends on it by 1 %).
enum class ScheduleKind {
  wan_unipc,        ///< Wan's own UniPC: u_i = 0.999 (1 - i / N); t = 1000 sigma cut to an integer
  wan_dpmpp,        ///< Wan's own DPM++: u_i = 1 - i / N; t cut to an integer
  diffsynth,        ///< DiffSynth-Studio: the same levels; t = 1000 sigma
  diffusers_unipc,  ///< UniPCMultistepScheduler: u_i = 1 - 0.999 i / N, a first sigma of 1 lowered by 1e-6; t
                    ///< cut
  /// FlowMatchEulerDiscreteScheduler: N levels from the shifted 1 to the shifted 1/1000, both included, which
  /// are then shifted again (sic); t = 1000 sigma.
  diffusers_euler,
};
/// "wan-unipc", "wan-dpm++", "diffsynth", "diffusers-unipc", "diffusers-euler".
std::vector<std::string> schedule_names();
/// One of schedule_names(); Error{usage} otherwise.
ScheduleKind parse_schedule(const std::string& name);
/// Error{usage} for fewer than one step or a shift that is not positive.
Schedule make_schedule(int64_t steps, double shift, ScheduleKind kind = ScheduleKind::diffusers_unipc);

/// Any levels: sigmas fall from at most 1 to 0, which comes last; t = 1000 sigma, not truncated.
Schedule schedule_from_sigmas(std::vector<double> sigmas);

enum class SamplerKind { euler, euler_ancestral, unipc, dpmpp_2m };
/// "euler", "euler-ancestral", "unipc", "dpm++2m".
std::vector<std::string> sampler_names();
/// One of sampler_names(); Error{usage} otherwise.
SamplerKind parse_sampler(const std::string& name);
std::string to_string(SamplerKind kind);

/// Whether the sampler's formulas hold at the first level: UniPC's do not at 1, where the logarithm of the
/// signal is infinite.
bool can_start(SamplerKind kind, const Schedule& schedule);

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
