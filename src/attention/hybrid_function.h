#pragma once
#include <utility>

#include "attention/hybrid.h"
#include "attention/linear_term.h"
#include "attention/softmax_kernels.h"
#include "base/tensor.h"

namespace surgery {

/// Eq. 5 from its two parts: y [B,H,N,D] and the normaliser n [B,H,N]. Differentiable to phi_q and the sums
/// by autograd (the graph keeps phi_q's activations); `softmax` is constant and unused for a linear rate.
std::pair<at::Tensor, at::Tensor> merge_linear(const SoftmaxForward& softmax, const at::Tensor& q,
                                               const LinearSums& sums, const FeatureMap& phi_q, Rate rate,
                                               Stabilizer stabilizer);

/// The same function with a backward of its own: exact to q, k, v and the feature maps, memory linear in
/// tokens (phi is computed again, tile by tile). `softmax` is the forward over T_S of these q, k, v; a
/// gradient through its maximum needs its argmax. The second result, n, carries no gradient.
std::pair<at::Tensor, at::Tensor> hybrid_function(const SoftmaxForward& softmax, const at::Tensor& q,
                                                  const at::Tensor& k, const at::Tensor& v,
                                                  const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                                                  Stabilizer stabilizer, MaxGradient max_gradient);

}  // namespace surgery
