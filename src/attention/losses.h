#pragma once
#include "attention/hybrid.h"
#include "base/random.h"
#include "base/tensor.h"

namespace surgery {

/// Value loss (Eq. 7): mean |y - yhat| over all elements.
at::Tensor value_loss(const at::Tensor& teacher, const at::Tensor& student);

/// Attention loss (Eq. 6): log(1 + mean (exp(s_ij - c_i) - phi_q(q_i) . phi_k(k_j))^2) over `sampled_rows`
/// rows i drawn by `key` and all j in T_L(R), in tiles (never N x N). c_i as in Eq. 5 (for a linear rate:
/// over all tokens).
at::Tensor attention_loss(const at::Tensor& q, const at::Tensor& k, const SoftmaxPart& part,
                          const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate, Stabilizer stabilizer,
                          int64_t sampled_rows, RandomKey key);

}  // namespace surgery
