#include "wan/block_autograd.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/errors.h"

namespace surgery {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a function of autograd carries to its backward.
template <class Content>
struct Carried : torch::CustomClassHolder {
  explicit Carried(Content c) : content(std::move(c)) {}
  Content content;
};

template <class Content>
void carry(AutogradContext* ctx, Content content) {
  ctx->saved_data["carried"] =
      c10::IValue::make_capsule(c10::make_intrusive<Carried<Content>>(std::move(content)));
}
template <class Content>
const Content& carried(AutogradContext* ctx) {
  const auto capsule = ctx->saved_data["carried"].toCapsule();
  return static_cast<const Carried<Content>*>(capsule.get())->content;
}

using Reached = std::function<void()>;

struct Mark : torch::autograd::Function<Mark> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Reached reached) {
    carry(ctx, std::move(reached));
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    carried<Reached>(ctx)();
    return {gradients[0], {}};
  }
};

struct Again {
  std::function<at::Tensor(const std::vector<at::Tensor>&)> body;
  Reached reached;
};

struct Recompute : torch::autograd::Function<Recompute> {
  /// `inputs` begin with one that requires grad whatever the others do, as the body's parameters may.
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, Again again) {
    const std::vector<at::Tensor> own(inputs.begin() + 1, inputs.end());
    ctx->save_for_backward(own);
    at::Tensor result = again.body(own);
    carry(ctx, std::move(again));
    return result;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const Again& again = carried<Again>(ctx);
    if (again.reached) again.reached();
    const variable_list saved = ctx->get_saved_variables();
    variable_list inputs;
    for (size_t i = 0; i < saved.size(); ++i)
      inputs.push_back(saved[i].detach().requires_grad_(ctx->needs_input_grad(i + 1)));
    {
      const at::AutoGradMode with_gradient(true);
      const at::Tensor result = again.body(inputs);
      if (result.requires_grad()) torch::autograd::backward({result}, {gradients[0]});
    }
    variable_list result(1);
    for (const at::Tensor& input : inputs) result.push_back(input.grad());
    result.emplace_back();  // of the body, which is no tensor
    return result;
  }
};

}  // namespace

at::Tensor mark_backward(const at::Tensor& x, std::function<void()> reached) {
  return Mark::apply(x, std::move(reached));
}

at::Tensor recompute(std::function<at::Tensor(const std::vector<at::Tensor>&)> body,
                     const std::vector<at::Tensor>& inputs, std::function<void()> reached) {
  EXPECT(!inputs.empty());
  std::vector<at::Tensor> all{at::zeros({0}, inputs.front().options()).requires_grad_(true)};
  for (const at::Tensor& input : inputs) {
    EXPECT(input.is_floating_point());
    all.push_back(input);
  }
  return Recompute::apply(at::TensorList(all), Again{std::move(body), std::move(reached)});
}

}  // namespace surgery
