#include "wan/generate.h"

#include <fmt/ranges.h>

#include "base/errors.h"

namespace surgery {

at::Tensor generate_latents(const Transformer& model, const at::Tensor& text, const at::Tensor& negative_text,
                            const SamplingOptions& options, const at::Tensor& noise,
                            const std::function<at::Tensor(int64_t step)>& fresh_noise,
                            const SamplingObserver& observer) {
  const at::NoGradGuard no_gradient;
  const bool guided = options.guidance > 1;
  VALIDATE(
      noise.dim() == 5 && noise.size(0) == 1,
      "initial noise is [{}] (one clip is denoised at a time): give [1, channels, frames, height, width]",
      fmt::join(noise.sizes(), ", "));
  VALIDATE(!guided || text.sizes() == negative_text.sizes(),
           "text is [{}] but the negative text [{}] (the zero rows of the padding are keys too): pad both to "
           "one length",
           fmt::join(text.sizes(), ", "), fmt::join(negative_text.sizes(), ", "));
  const auto device = model.device();
  const int64_t branches = guided ? 2 : 1;
  const auto context = (guided ? at::cat({text, negative_text}) : text).to(device);
  const Schedule schedule = make_schedule(options.steps, options.shift, options.schedule);
  const auto sampler = make_sampler(options.kind, schedule, fresh_noise);

  at::Tensor latents = noise.to(device, at::kFloat);
  for (int64_t step = 0; step < options.steps; ++step) {
    const double timestep = schedule.timesteps[static_cast<size_t>(step)];
    const auto times = at::full({branches}, timestep, latents.options());
    const auto velocities =
        model.forward(latents.expand({branches, -1, -1, -1, -1}), times, context).to(at::kFloat);
    SamplingStep seen{step,    timestep, schedule.sigmas[static_cast<size_t>(step)],
                      latents, context,  velocities.slice(0, 0, 1),
                      {}};
    at::Tensor velocity = seen.conditional;
    if (guided) {
      seen.unconditional = velocities.slice(0, 1, 2);
      velocity = seen.unconditional + (seen.conditional - seen.unconditional) * options.guidance;
    }
    if (observer) observer(seen);
    latents = sampler->step(step, latents, velocity);
  }
  return latents;
}

}  // namespace surgery
