#pragma once
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// Sinusoid of the timestep: [B] (0..1000) -> fp32 [B, freq_dim], cosines first; frequency i is
/// 10000^(-i/(freq_dim/2)). In fp32 with diffusers' order of operations (Wan's own code uses fp64; they
/// differ by about 1e-5 near t = 1000).
at::Tensor timestep_sinusoid(const at::Tensor& timestep, int64_t freq_dim);

/// [B, C, T, H, W] -> [B, tokens, C*pt*ph*pw], channel slowest (the layout of the patch convolution's
/// weight).
at::Tensor patchify(const at::Tensor& video, const std::vector<int64_t>& patch);

/// [B, tokens, pt*ph*pw*C], channel fastest (the head's layout) -> [B, C, T, H, W]; `grid` in patches.
at::Tensor unpatchify(const at::Tensor& tokens, at::IntArrayRef grid, const std::vector<int64_t>& patch);

}  // namespace surgery
