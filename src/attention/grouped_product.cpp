#include "attention/grouped_product.h"

#include <ATen/Parallel.h>

#include "base/linear.h"

namespace surgery {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct GroupedProduct : torch::autograd::Function<GroupedProduct> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& a, const at::Tensor& b) {
    ctx->save_for_backward({a, b});
    const int64_t batch = a.size(0), heads = a.size(1);
    if (batch * heads == 1) return product(a[0][0], b[0][0]).unsqueeze(0).unsqueeze(0);
    const at::Tensor result = at::empty({batch, heads, a.size(2), b.size(3)}, a.options());
    // One matrix a thread: fewer meetings of the threads than many threads in each matrix.
    at::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
      at::NoGradGuard no_grad;
      for (int64_t pair = begin; pair < end; ++pair) {
        const int64_t i = pair / heads, h = pair % heads;
        result[i][h].copy_(product(a[i][h], b[i][h]));
      }
    });
    return result;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    variable_list result(2);
    if (ctx->needs_input_grad(0)) result[0] = grouped_product(gradients[0], saved[1].transpose(2, 3));
    if (ctx->needs_input_grad(1)) result[1] = grouped_product(saved[0].transpose(2, 3), gradients[0]);
    return result;
  }
};

}  // namespace

at::Tensor grouped_product(const at::Tensor& a, const at::Tensor& b) {
  const bool same = a.dim() == 4 && b.dim() == 4 && a.size(0) == b.size(0) && a.size(1) == b.size(1) &&
                    a.size(3) == b.size(2) && a.scalar_type() == b.scalar_type();
  if (same && product_prefers_onednn(a, a.size(2), a.size(3), b.size(3))) return GroupedProduct::apply(a, b);
  return at::matmul(a, b);
}

}  // namespace surgery
