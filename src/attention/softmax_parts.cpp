#include <algorithm>
#include <numeric>

#include "attention/hybrid.h"
#include "attention/softmax_kernels.h"
#include "base/errors.h"

namespace surgery {

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
  std::vector<SoftmaxPart> parts(rates.size());
  std::vector<size_t> order(rates.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rates[b] < rates[a]; });

  const int64_t keys = k.size(2);
  const auto every = [&](int64_t first, int64_t stride) {
    return softmax_part(q, k.slice(2, first, keys, stride), v.slice(2, first, keys, stride), with_max);
  };
  // From the sparsest set to all tokens: T_S(r) is T_S(R) and its copies shifted by r, 2r, ... (r divides R);
  // when R = 2r that is one strided group, otherwise R/r - 1 of them.
  SoftmaxPart running;
  int64_t stride = 0;
  const auto widen = [&](int64_t finer) {
    if (stride == 0) {
      running = every(0, finer);
    } else {
      for (int64_t first = finer; first < std::min(stride, keys); first += finer)
        running = merge(running, every(first, stride));
    }
    stride = finer;
  };
  for (size_t i : order) {
    EXPECT(!rates[i].is_linear());
    const int64_t finer = rates[i].stride();
    if (stride == 0 || stride % finer == 0) {
      if (finer != stride) widen(finer);
      parts[i] = running;
    } else {
      parts[i] = every(0, finer);
    }
  }
  if (stride != 1) widen(1);
  full = running;
  return parts;
}

}  // namespace surgery
