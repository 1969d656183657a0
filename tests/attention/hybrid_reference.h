#pragma once
#include <cmath>

#include "attention/hybrid.h"

namespace surgery::test {

/// hybrid_attention by its formula, with autograd's gradients; the N x M logits are materialised.
inline at::Tensor hybrid_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                             const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                                             Stabilizer stabilizer,
                                             MaxGradient max_gradient = MaxGradient::through) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  if (rate.is_full()) return at::matmul(at::softmax(at::matmul(q, k.transpose(2, 3)) * scale, 3), v);

  const int64_t keys = k.size(2);
  std::vector<int64_t> linear;
  for (int64_t j = 0; j < keys; ++j)
    if (rate.is_linear() || j % rate.stride() != 0) linear.push_back(j);
  const at::Tensor index = at::tensor(linear, at::kLong).to(k.device());

  const at::Tensor kernel = at::matmul(phi_q(q), phi_k(k.index_select(2, index)).transpose(2, 3));
  at::Tensor numerator = at::matmul(kernel, v.index_select(2, index)), normalizer = kernel.sum(3, true);
  if (!rate.is_linear()) {
    const at::Tensor ks = k.slice(2, 0, keys, rate.stride()), vs = v.slice(2, 0, keys, rate.stride());
    const at::Tensor logits = at::matmul(q, ks.transpose(2, 3)) * scale;
    at::Tensor c =
        stabilizer == Stabilizer::max ? std::get<0>(logits.max(3, true)) : logits.logsumexp(3, true);
    if (stabilizer == Stabilizer::max && max_gradient == MaxGradient::constant) c = c.detach();
    const at::Tensor weights = at::exp(logits - c);
    numerator = numerator + at::matmul(weights, vs);
    normalizer = normalizer + weights.sum(3, true);
  }
  return numerator / normalizer;
}

}  // namespace surgery::test
