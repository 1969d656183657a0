#pragma once
#include "base/tensor.h"

namespace surgery {

/// The VAE's normalisation: x / max(||x||, 1e-12) * sqrt(C) * gamma, the norm over the C channels of each
/// pixel. x [N, C, H, W] (channels last is fastest), gamma with C elements of any shape. Result in x's dtype
/// and layout; 16-bit inputs are normalised in fp32 and rounded once. Differentiable.
at::Tensor channel_norm(const at::Tensor& x, const at::Tensor& gamma);

/// silu(channel_norm(x, gamma)) into `out`, of x's shape and channels last in memory. Without gradient.
void channel_norm_silu_into(at::Tensor out, const at::Tensor& x, const at::Tensor& gamma);

}  // namespace surgery
