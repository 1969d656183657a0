#include <ATen/OpMathType.h>

#include <algorithm>
#include <cmath>

#include "attention/softmax_kernels.h"

namespace surgery {
namespace {

/// Keys of a tile: a bounded number of logits in memory at once, whatever the number of tokens.
int64_t key_tile(const at::Tensor& q) {
  const int64_t rows = q.numel() / q.size(3);
  return std::clamp<int64_t>((int64_t{64} << 20) / rows, 16, 1024);
}

/// Scaled logits of keys [begin, begin + length) in the accumulation type, [B,H,N,length].
at::Tensor logits_of(const at::Tensor& q, const at::Tensor& k, int64_t begin, int64_t length) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const at::ScalarType type = at::toOpMathType(q.scalar_type());
  return at::matmul(q.to(type), k.narrow(2, begin, length).to(type).transpose(2, 3)).mul_(scale);
}

}  // namespace

SoftmaxForward tiled_softmax_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     RowMaximum maximum) {
  const int64_t keys = k.size(2), tile = key_tile(q);
  at::Tensor max, argmax, sum, output;
  for (int64_t begin = 0; begin < keys; begin += tile) {
    const int64_t length = std::min(tile, keys - begin);
    at::Tensor logits = logits_of(q, k, begin, length);
    auto [value, index] = logits.max(3);
    index += begin;
    const at::Tensor largest = begin == 0 ? value : at::maximum(max, value);
    const at::Tensor weights = logits.sub_(largest.unsqueeze(3)).exp_();
    const at::Tensor product =
        at::matmul(weights.to(v.scalar_type()), v.narrow(2, begin, length)).to(weights.scalar_type());
    if (begin == 0) {
      argmax = index;
      sum = weights.sum(3);
      output = product;
    } else {
      const at::Tensor kept = at::exp(max - largest);
      argmax = at::where(value > max, index, argmax);
      sum = sum * kept + weights.sum(3);
      output = output.mul_(kept.unsqueeze(3)).add_(product);
    }
    max = largest;
  }
  SoftmaxForward result;
  result.lse = max + at::log(sum);
  result.output = output.div_(sum.unsqueeze(3)).to(q.scalar_type());
  if (maximum != RowMaximum::none) result.max = max;
  if (maximum == RowMaximum::value_and_index) result.argmax = argmax;
  return result;
}

SoftmaxGradients tiled_softmax_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& output,
                                        const at::Tensor& lse) {
  const int64_t keys = k.size(2), tile = key_tile(q);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const at::ScalarType wide = lse.scalar_type(), type = q.scalar_type();
  const at::Tensor row = (grad.to(wide) * output.to(wide)).sum(3, true), normalizer = lse.unsqueeze(3);
  const at::Tensor gradient = grad.to(type);
  SoftmaxGradients result{at::zeros_like(q, q.options().dtype(wide)), at::empty_like(k), at::empty_like(v)};
  for (int64_t begin = 0; begin < keys; begin += tile) {
    const int64_t length = std::min(tile, keys - begin);
    const at::Tensor weights = logits_of(q, k, begin, length).sub_(normalizer).exp_();
    result.v.narrow(2, begin, length).copy_(at::matmul(weights.to(type).transpose(2, 3), gradient));
    const at::Tensor of_weights = at::matmul(gradient, v.narrow(2, begin, length).transpose(2, 3)).to(wide);
    const at::Tensor of_logits = (of_weights - row).mul_(weights).mul_(scale).to(type);
    result.q += at::matmul(of_logits, k.narrow(2, begin, length));
    result.k.narrow(2, begin, length).copy_(at::matmul(of_logits.transpose(2, 3), q));
  }
  result.q = result.q.to(type);
  return result;
}

}  // namespace surgery
