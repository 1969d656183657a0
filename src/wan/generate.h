#pragma once
#include <functional>

#include "base/tensor.h"
#include "wan/sampler.h"
#include "wan/transformer.h"

namespace surgery {

struct SamplingOptions {
  int64_t steps = 50;
  double guidance = 5;  ///< v = v_uncond + guidance * (v_cond - v_uncond); up to 1: the prompt's branch alone
  double shift = 3;
  SamplerKind kind = SamplerKind::unipc;
  ScheduleKind schedule = ScheduleKind::diffusers_unipc;
};

/// What one denoising step saw, before it moved on.
struct SamplingStep {
  int64_t step = 0;
  double timestep = 0;  ///< as the model got it
  double sigma = 0;
  at::Tensor latents;  ///< the model's input [1, channels, T, H, W], fp32
  at::Tensor text;     ///< [branches, L, text_dim]: the prompt's, then the negative prompt's
  at::Tensor conditional, unconditional;  ///< velocities, fp32; the second is undefined without guidance
};
using SamplingObserver = std::function<void(const SamplingStep&)>;

/// Denoises `noise` [1, channels, T, H, W] (fp32, N(0,1)) to latents of the same shape, fp32, on the model's
/// device. `text` and `negative_text` [1, L, text_dim], already padded (zero rows are keys). Both branches
/// run as one batch. `fresh_noise(step)` gives N(0,1) of the latents' shape for samplers that add noise.
/// `observer` is called once a step; what it throws ends the run. No gradient is kept.
at::Tensor generate_latents(const Transformer& model, const at::Tensor& text, const at::Tensor& negative_text,
                            const SamplingOptions& options, const at::Tensor& noise,
                            const std::function<at::Tensor(int64_t step)>& fresh_noise = {},
                            const SamplingObserver& observer = {});

}  // namespace surgery
