#include "attention/losses.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "attention/linear_term.h"
#include "base/errors.h"

namespace surgery {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// sum_ij (exp(s_ij - c_i) - a_i . b_j)^2 in tiles over j. The gradients to a and b are taken in the same
/// pass (they are linear in the incoming one), so no tile is kept.
struct KernelSquares : torch::autograd::Function<KernelSquares> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& a, const at::Tensor& b,
                            const at::Tensor& q, const at::Tensor& k, const at::Tensor& c) {
    const bool gradient = a.requires_grad() || b.requires_grad();
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    const at::ScalarType type = accumulation_type(q.scalar_type());
    at::Tensor total = at::zeros({}, a.options().dtype(at::kDouble));
    at::Tensor da, db;
    if (gradient) {
      da = at::zeros_like(a, a.options().dtype(type));
      db = at::empty_like(b, b.options().dtype(type));
    }
    const int64_t tile =
        std::clamp<int64_t>((int64_t{16} << 20) / (4 * a.size(0) * a.size(1) * a.size(2)), 64, 4096);
    for (int64_t begin = 0; begin < k.size(2); begin += tile) {
      const int64_t length = std::min(tile, k.size(2) - begin);
      const at::Tensor features = b.narrow(2, begin, length);
      const at::Tensor logits =
          at::matmul(q.to(type), k.narrow(2, begin, length).to(type).transpose(2, 3)) * scale;
      const at::Tensor difference = at::matmul(a, features.transpose(2, 3)).to(type) - at::exp(logits - c);
      total += at::square(difference).sum(at::kDouble);
      if (gradient) {
        const at::Tensor twice = (2 * difference).to(a.scalar_type());
        da += at::matmul(twice, features);
        db.narrow(2, begin, length).copy_(at::matmul(twice.transpose(2, 3), a));
      }
    }
    ctx->save_for_backward({da, db});
    ctx->saved_data["type"] = static_cast<int64_t>(a.scalar_type());
    return total;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const auto type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    return {(saved[0] * gradients[0]).to(type), (saved[1] * gradients[0]).to(type), {}, {}, {}};
  }
};

/// `count` different rows out of `total`, ascending; all of them when count >= total.
at::Tensor sample_rows(int64_t total, int64_t count, RandomKey key) {
  std::vector<int64_t> rows(static_cast<size_t>(total));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  if (count < total) {
    RandomStream stream(key);
    for (int64_t i = 0; i < count; ++i) std::swap(rows[i], rows[i + stream.below(total - i)]);
    rows.resize(static_cast<size_t>(count));
    std::sort(rows.begin(), rows.end());
  }
  return at::tensor(rows, at::kLong);
}

}  // namespace

at::Tensor value_loss(const at::Tensor& teacher, const at::Tensor& student) {
  VALIDATE(teacher.sizes() == student.sizes(),
           "teacher's y is [{}], the student's [{}]: compare outputs of one sample",
           fmt::join(teacher.sizes(), ", "), fmt::join(student.sizes(), ", "));
  const at::ScalarType type =
      at::promote_types(accumulation_type(teacher.scalar_type()), student.scalar_type());
  return (teacher.to(type) - student.to(type)).abs().mean();
}

at::Tensor attention_loss(const at::Tensor& q, const at::Tensor& k, const SoftmaxPart& part,
                          const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate, Stabilizer stabilizer,
                          int64_t sampled_rows, RandomKey key) {
  VALIDATE(sampled_rows >= 1, "attention loss over {} rows (nothing would be compared): sample at least one",
           sampled_rows);
  VALIDATE(q.dim() == 4 && k.dim() == 4 && q.size(0) == k.size(0) && q.size(1) == k.size(1) &&
               q.size(3) == k.size(3),
           "attention loss got q [{}] and k [{}] (wanted [batch, heads, tokens, head_dim] of one sample)",
           fmt::join(q.sizes(), ", "), fmt::join(k.sizes(), ", "));
  const at::Tensor& stabilizers = stabilizer == Stabilizer::max ? part.max : part.lse;
  VALIDATE(stabilizers.defined() && stabilizers.sizes() == q.sizes().slice(0, 3),
           "attention loss with stabilizer {} got a softmax part without it or of other queries (c_i of Eq. "
           "5): compute "
           "the part from the same q, with its maximum where `max` is used",
           to_string(stabilizer));
  const at::Tensor keys = linear_tokens(k, rate);
  const at::ScalarType type = accumulation_type(q.scalar_type());
  if (keys.size(2) == 0) return at::zeros({}, q.options().dtype(type));

  const at::Tensor rows = sample_rows(q.size(2), sampled_rows, key).to(q.device());
  const at::Tensor queries = q.index_select(2, rows), c = stabilizers.index_select(2, rows).unsqueeze(3);
  const at::Tensor squares = KernelSquares::apply(phi_q(queries), phi_k(keys), queries, keys, c);
  const double count =
      static_cast<double>(queries.numel() / queries.size(3)) * static_cast<double>(keys.size(2));
  return at::log1p(squares / count).to(type);
}

}  // namespace surgery
