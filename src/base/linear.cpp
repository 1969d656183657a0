#include "base/linear.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

namespace surgery {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                   std::string_view, c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

/// LibTorch reaches oneDNN's fp32 products only through this operator; a LibTorch built without oneDNN lacks
/// it.
const std::optional<c10::TypedOperatorHandle<LinearPointwise>>& onednn_linear() {
  static const auto handle = []() -> std::optional<c10::TypedOperatorHandle<LinearPointwise>> {
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!schema) return std::nullopt;
    return schema->typed<LinearPointwise>();
  }();
  return handle;
}

/// oneDNN has kernels for matrices without gaps, in either order of the axes; others it multiplies element by
/// element.
at::Tensor without_gaps(const at::Tensor& x) {
  const bool rows = x.stride(1) == 1 && x.stride(0) == x.size(1),
             columns = x.stride(0) == 1 && x.stride(1) == x.size(0);
  return rows || columns ? x : x.contiguous();
}

/// x [M,K] * weight [N,K]^T + bias, sizes already found worth it.
at::Tensor by_onednn(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  at::AutoDispatchBelowAutograd below;
  return onednn_linear()->call(without_gaps(x), without_gaps(weight),
                               bias.defined() ? std::optional(bias) : std::nullopt, "none",
                               c10::List<std::optional<at::Scalar>>(), "");
}

struct OnednnLinear : torch::autograd::Function<OnednnLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["bias"] = bias.has_value();
    return by_onednn(x, weight, bias.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &gradient = gradients[0], &x = saved[0], &weight = saved[1];
    variable_list result(3);
    if (ctx->needs_input_grad(0)) result[0] = product(gradient, weight);
    if (ctx->needs_input_grad(1)) result[1] = product(gradient.t(), x);
    // Without a bias there is no third edge to ask about.
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) result[2] = gradient.sum(0);
    return result;
  }
};

}  // namespace

bool product_prefers_onednn(const at::Tensor& like, int64_t m, int64_t k, int64_t n) {
  constexpr int64_t worth = 3'000'000;  // below, the call itself costs more than it gains
  return like.device().is_cpu() && like.scalar_type() == at::kFloat && m * k * n >= worth && onednn_linear();
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool same_type =
      x.scalar_type() == weight.scalar_type() && (!bias.defined() || bias.scalar_type() == at::kFloat);
  const bool fits = same_type && x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) &&
                    weight.device().is_cpu();
  if (!fits || !product_prefers_onednn(x, x.numel() / x.size(-1), weight.size(1), weight.size(0)))
    return at::linear(x, weight, bias);
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  const at::Tensor y = OnednnLinear::apply(rows, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return y.view(shape);
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  if (a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && b.scalar_type() == a.scalar_type() &&
      product_prefers_onednn(a, a.size(0), a.size(1), b.size(1)))
    return by_onednn(a, b.t(), {});
  return at::mm(a, b);
}

}  // namespace surgery
