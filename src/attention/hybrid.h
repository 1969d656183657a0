#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "attention/feature_map.h"
#include "attention/rate.h"
#include "base/tensor.h"

namespace surgery {

/// c_i of Eq. 5. `max`: the true row maximum over T_S (the paper's). `lse`: log sum_S exp(s_ij) (the softmax
/// part is then ordinary attention over T_S with weight one).
enum class Stabilizer { max, lse };
std::string to_string(Stabilizer stabilizer);
Stabilizer parse_stabilizer(std::string_view name);

/// Softmax attention over one key set, kept mergeable. All of q's rows; logits scaled by 1/sqrt(head_dim).
struct SoftmaxPart {
  at::Tensor output;  ///< [batch, heads, tokens, head_dim]: normalised attention over the set
  at::Tensor lse;     ///< [batch, heads, tokens], fp32 (or fp64): log of the sum of exponentials
  at::Tensor max;     ///< [batch, heads, tokens]: exact row maximum; undefined unless asked for
};

/// Attention of q [B,H,N,D] over keys k, v [B,H,M,D] (any strides in M), memory linear in N and M. No
/// gradient.
SoftmaxPart softmax_part(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool with_max);

/// Merges parts over disjoint key sets into the part over their union.
SoftmaxPart merge(const SoftmaxPart& a, const SoftmaxPart& b);

/// Softmax parts of every rate of a divisor chain and of full attention from one full attention's work
/// (nested strided groups). `rates`: softmax rates (not linear), each dividing the next larger; returned in
/// the given order. Rates outside the chain cost a pass of their own. `full` receives the part over all
/// tokens (the teacher's output).
std::vector<SoftmaxPart> nested_softmax_parts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                              const std::vector<Rate>& rates, bool with_max,
                                              SoftmaxPart& full);

/// Eq. 5 from a frozen softmax part (distillation: q, k, v have no gradient, phi has): y [B,H,N,D].
/// `part` is ignored for a linear rate. k, v are all tokens; T_L is taken by the rate.
/// `smallest_normalizer`, when given, receives min n_i.
at::Tensor hybrid_from_part(const SoftmaxPart& part, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                            Stabilizer stabilizer, double* smallest_normalizer = nullptr);

enum class MaxGradient { through, constant };  ///< of c_i with `max`

/// Full softmax attention with gradient, memory linear in tokens. [B,H,N,D].
at::Tensor full_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// Hybrid attention of Eq. 5 with exact gradients to q, k, v and both feature maps; forward and backward
/// memory linear in tokens. Rate 1 is full_attention (phi unused).
at::Tensor hybrid_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                            Stabilizer stabilizer, MaxGradient max_gradient = MaxGradient::through);

}  // namespace surgery
