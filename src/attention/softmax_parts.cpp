#include <algorithm>
#include <map>

#include "attention/hybrid.h"
#include "attention/softmax_kernels.h"
#include "base/errors.h"

namespace surgery {
namespace {

/// The chain of divisors among the rates whose direct passes would cost most (each 1/R of full attention),
/// finest first.
std::vector<int64_t> cheapest_chain(const std::vector<Rate>& rates) {
  std::vector<int64_t> strides;
  for (const Rate rate : rates) strides.push_back(rate.stride());
  std::sort(strides.begin(), strides.end());
  strides.erase(std::unique(strides.begin(), strides.end()), strides.end());
  std::vector<double> saved(strides.size());
  std::vector<std::vector<int64_t>> chains(strides.size());
  size_t best = 0;
  for (size_t i = 0; i < strides.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (strides[i] % strides[j] != 0 || saved[j] <= saved[i]) continue;
      saved[i] = saved[j];
      chains[i] = chains[j];
    }
    saved[i] += 1.0 / static_cast<double>(strides[i]);
    chains[i].push_back(strides[i]);
    if (saved[i] > saved[best]) best = i;
  }
  return chains.empty() ? std::vector<int64_t>{} : chains[best];
}

}  // namespace

SoftmaxPart softmax_part(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool with_max) {
  check_attention_inputs(q, k, v);
  SoftmaxForward forward = softmax_forward(q, k, v, with_max ? RowMaximum::value : RowMaximum::none);
  return {forward.output, forward.lse, forward.max};
}

SoftmaxPart merge(const SoftmaxPart& a, const SoftmaxPart& b) {
  at::NoGradGuard no_grad;
  EXPECT(a.max.defined() == b.max.defined());
  SoftmaxPart both;
  both.lse = at::logaddexp(a.lse, b.lse);
  if (a.max.defined()) both.max = at::maximum(a.max, b.max);
  // lerp(a, b, w) = a + w (b - a), with b's share of the sum of exponentials as w.
  const at::Tensor share = at::exp(b.lse - both.lse).unsqueeze(3);
  both.output = at::lerp(a.output.to(share.scalar_type()), b.output.to(share.scalar_type()), share)
                    .to(a.output.scalar_type());
  return both;
}

std::vector<SoftmaxPart> nested_softmax_parts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                              const std::vector<Rate>& rates, bool with_max,
                                              SoftmaxPart& full) {
  check_attention_inputs(q, k, v);
  const int64_t keys = k.size(2);
  const auto every = [&](int64_t first, int64_t stride) {
    return softmax_part(q, k.slice(2, first, keys, stride), v.slice(2, first, keys, stride), with_max);
  };
  // From the sparsest set to all tokens: T_S(r) is T_S(R) and its copies shifted by r, 2r, ... below R,
  // disjoint strided groups.
  std::map<int64_t, SoftmaxPart> parts;
  std::vector<int64_t> chain = cheapest_chain(rates);
  if (chain.empty() || chain.front() != 1) chain.insert(chain.begin(), 1);
  SoftmaxPart running = every(0, chain.back());
  for (size_t i = chain.size(); i-- > 0;) {
    if (i + 1 < chain.size())
      for (int64_t first = chain[i]; first < std::min(chain[i + 1], keys); first += chain[i])
        running = merge(running, every(first, chain[i + 1]));
    parts[chain[i]] = running;
  }
  full = running;
  std::vector<SoftmaxPart> in_order;
  for (const Rate rate : rates) {
    const auto [place, missing] = parts.try_emplace(rate.stride());
    if (missing) place->second = every(0, rate.stride());
    in_order.push_back(place->second);
  }
  return in_order;
}

}  // namespace surgery
