#include <fmt/ranges.h>

#include "app/forward.h"
#include "wan/sampler.h"

namespace surgery {
namespace {

/// One tensor of the sample's shape for each step.
void check_per_step(const char* name, const at::Tensor& tensor, const at::Tensor& sample) {
  VALIDATE(
      tensor.dim() == sample.dim() + 1 && tensor.size(0) > 0 && tensor.sizes().slice(1) == sample.sizes(),
      "{} is [{}] but sample is [{}] (every step needs one of that shape): give [steps, {}]", name,
      fmt::join(tensor.sizes(), ", "), fmt::join(sample.sizes(), ", "), fmt::join(sample.sizes(), ", "));
}

Schedule schedule_of(const TensorMap& input, const CommandLine& options, int64_t steps) {
  if (!input.contains("sigmas"))
    return make_schedule(steps, options.number("shift", 3),
                         parse_schedule(options.text("schedule", "diffusers-unipc")));
  const auto sigmas = finite_input(input, "sigmas").to(at::kDouble).contiguous();
  VALIDATE(sigmas.dim() == 1 && sigmas.size(0) == steps + 1,
           "sigmas is [{}] for {} velocities (a level before and after every step is needed): give [{}]",
           fmt::join(sigmas.sizes(), ", "), steps, steps + 1);
  const auto* values = sigmas.const_data_ptr<double>();
  return schedule_from_sigmas({values, values + sigmas.numel()});
}

TensorMap run(const TensorMap& input, const CommandLine& options) {
  at::Tensor sample = finite_input(input, "sample").to(at::kFloat);
  const at::Tensor velocities = finite_input(input, "velocities");
  check_per_step("velocities", velocities, sample);
  const int64_t steps = velocities.size(0);
  const Schedule schedule = schedule_of(input, options, steps);
  const SamplerKind kind = parse_sampler(options.text("sampler", "unipc"));
  if (!can_start(kind, schedule) && !input.contains("sigmas"))
    fail_usage(
        "--schedule = {} starts at noise level 1, where unipc cannot: choose diffusers-unipc or wan-unipc",
        options.text("schedule", ""));
  const double eta = options.number("eta", 1);
  at::Tensor noise;
  if (kind == SamplerKind::euler_ancestral && eta != 0) {
    noise = finite_input(input, "noise");
    check_per_step("noise", noise, sample);
    VALIDATE(noise.size(0) == steps, "noise is for {} steps and velocities for {}: give one of each per step",
             noise.size(0), steps);
  }
  const auto sampler = make_sampler(
      kind, schedule, [&](int64_t step) { return noise[step]; }, eta);
  std::vector<at::Tensor> samples;
  for (int64_t step = 0; step < steps; ++step) {
    sample = sampler->step(step, sample, velocities[step]);
    samples.push_back(sample);
  }
  return {{"sample", sample},
          {"samples", at::stack(samples)},
          {"sigmas", at::tensor(schedule.sigmas, at::kDouble)},
          {"timesteps", at::tensor(schedule.timesteps, at::kDouble)}};
}

}  // namespace

// A sampler walked over given velocities, no model in the loop: `samples` holds the state after every step.
std::vector<Component> scheduler_components() {
  return {{"scheduler",
           "sample [...], velocities [steps,...], optional sigmas [steps+1], noise [steps,...] -> sample, "
           "samples, "
           "sigmas, timesteps (no model)",
           [](const std::filesystem::path&, const TensorMap& input, const CommandLine& options) {
             return [=] { return run(input, options); };
           },
           /*needs_model=*/false}};
}

}  // namespace surgery
