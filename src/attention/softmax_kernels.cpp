#include "attention/softmax_kernels.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/errors.h"

namespace surgery {
namespace {

/// Row maxima over keys in tiles: never more than `tile` logits a row in memory. Multiplied in fp32 (or fp64)
/// as the kernels do: rounded to bf16, a logit of 20 would be off by 0.06, and c_i with it.
void row_maxima(const at::Tensor& any_q, const at::Tensor& k, SoftmaxForward& result, bool with_index) {
  const at::ScalarType type = result.lse.scalar_type();
  const at::Tensor q = any_q.to(type);
  const int64_t keys = k.size(2), rows = q.numel() / q.size(3);
  const int64_t tile = std::clamp<int64_t>((int64_t{64} << 20) / rows, 16, 1024);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  for (int64_t begin = 0; begin < keys; begin += tile) {
    const int64_t length = std::min(tile, keys - begin);
    const at::Tensor logits = at::matmul(q, k.narrow(2, begin, length).to(type).transpose(2, 3));
    auto [value, index] = logits.max(3);
    value = value * scale;
    if (with_index) index = index + begin;
    if (begin == 0) {
      result.max = value;
      if (with_index) result.argmax = index;
    } else {
      if (with_index) result.argmax = at::where(value > result.max, index, result.argmax);
      result.max = at::maximum(result.max, value);
    }
  }
}

/// Whether LibTorch has a flash kernel that returns its log-sum-exp for this device, type and head_dim.
bool stock_serves(const at::Tensor& q) {
  if (q.device().is_cpu()) return true;
  const bool half = q.scalar_type() == at::kHalf || q.scalar_type() == at::kBFloat16;
  return q.device().is_cuda() && half && q.size(3) % 8 == 0 && q.size(3) <= 256;
}

/// LibTorch's kernels take any strides but the last: there they read on without looking.
at::Tensor dense_rows(const at::Tensor& x) {
  return x.stride(3) == 1 ? x : x.contiguous();
}

std::string shape(const at::Tensor& x) {
  return fmt::format("[{}]", fmt::join(x.sizes(), ", "));
}

}  // namespace

void check_attention_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const bool fits = q.dim() == 4 && k.dim() == 4 && v.sizes() == k.sizes() && q.size(0) == k.size(0) &&
                    q.size(1) == k.size(1) && q.size(3) == k.size(3) && q.size(2) >= 1 && k.size(2) >= 1;
  VALIDATE(fits,
           "attention got q {}, k {}, v {} (wanted q [batch, heads, tokens, head_dim] and k, v alike with "
           "the same "
           "batch, heads and head_dim, none empty): check how the projections are split into heads",
           shape(q), shape(k), shape(v));
  VALIDATE(q.scalar_type() == k.scalar_type() && k.scalar_type() == v.scalar_type() && q.is_floating_point(),
           "attention got q, k, v of {}, {}, {} (one floating type is needed): convert them",
           c10::toString(q.scalar_type()), c10::toString(k.scalar_type()), c10::toString(v.scalar_type()));
  VALIDATE(q.device() == k.device() && k.device() == v.device(),
           "attention got q, k, v on {}, {}, {} (one device is needed): move them", q.device().str(),
           k.device().str(), v.device().str());
}

SoftmaxForward stock_softmax_forward(const at::Tensor& any_q, const at::Tensor& any_k,
                                     const at::Tensor& any_v, RowMaximum maximum) {
  const at::Tensor q = dense_rows(any_q), k = dense_rows(any_k), v = dense_rows(any_v);
  SoftmaxForward result;
  if (q.device().is_cpu()) {
    std::tie(result.output, result.lse) = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v);
  } else {
    const auto all = at::_scaled_dot_product_flash_attention(q, k, v);
    result.output = std::get<0>(all);
    result.lse = std::get<1>(all);
  }
  if (maximum != RowMaximum::none) row_maxima(q, k, result, maximum == RowMaximum::value_and_index);
  return result;
}

SoftmaxGradients stock_softmax_backward(const at::Tensor& any_grad, const at::Tensor& any_q,
                                        const at::Tensor& any_k, const at::Tensor& any_v,
                                        const at::Tensor& any_output, const at::Tensor& lse) {
  const at::Tensor grad = dense_rows(any_grad), q = dense_rows(any_q), k = dense_rows(any_k),
                   v = dense_rows(any_v), output = dense_rows(any_output);
  if (q.device().is_cpu()) {
    auto [dq, dk, dv] =
        at::_scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, output, lse, 0.0, false);
    return {dq, dk, dv};
  }
  // The two state tensors belong to dropout, which is off.
  const at::Tensor none, state = at::zeros({2}, q.options().dtype(at::kLong));
  auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_backward(
      grad, q, k, v, output, lse.contiguous(), none, none, q.size(2), k.size(2), 0.0, false, state, state);
  return {dq, dk, dv};
}

SoftmaxForward softmax_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               RowMaximum maximum) {
  at::NoGradGuard no_grad;
  if (q.device().is_cpu()) {
    const bool narrow = q.scalar_type() != at::kDouble;
    for (const cpu::Kernels* kernels : cpu::kernels())
      if (narrow && q.size(3) % kernels->row_group == 0)
        return cpu_softmax_forward(*kernels, q, k, v, maximum);
  }
  return stock_serves(q) ? stock_softmax_forward(q, k, v, maximum) : tiled_softmax_forward(q, k, v, maximum);
}

SoftmaxGradients softmax_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& output, const at::Tensor& lse) {
  at::NoGradGuard no_grad;
  return stock_serves(q) ? stock_softmax_backward(grad, q, k, v, output, lse)
                         : tiled_softmax_backward(grad, q, k, v, output, lse);
}

}  // namespace surgery
