#include "attention/hybrid_function.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "attention/grouped_product.h"
#include "base/errors.h"
#include "base/linear.h"

namespace surgery {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// exp(lse - c): the weight of the softmax part, which is also its share n_s of the normaliser; undefined
/// for 1.
at::Tensor softmax_weight(const SoftmaxForward& softmax, Stabilizer stabilizer) {
  return stabilizer == Stabilizer::lse ? at::Tensor() : at::exp(softmax.lse - softmax.max);
}

struct Settings : torch::CustomClassHolder {
  FeatureMapConfig phi_q, phi_k;
  Rate rate = Rate::full();
  Stabilizer stabilizer = Stabilizer::max;
  MaxGradient max_gradient = MaxGradient::through;
};

/// phi on one tile, computed again with a graph of its own.
class PhiTile {
 public:
  PhiTile(const FeatureMapConfig& config, at::ArrayRef<at::Tensor> parameters, const at::Tensor& x,
          bool input_grad)
      : input_(x.detach()), input_grad_(input_grad) {
    at::AutoGradMode enable(true);
    input_.set_requires_grad(input_grad);
    FeatureMap phi{config, {}, {}};
    for (size_t i = 0; i < parameters.size(); ++i) {
      leaves_.push_back(parameters[i].detach().set_requires_grad(parameters[i].requires_grad()));
      (i % 2 == 0 ? phi.weight : phi.bias).push_back(leaves_.back());
    }
    features_ = phi(input_);
  }

  at::Tensor features() const { return features_.detach(); }

  /// Adds the parameters' gradients to `totals` (accumulation type) and returns the input's, if wanted.
  at::Tensor backward(const at::Tensor& gradient, std::span<at::Tensor> totals) {
    variable_list wanted;
    if (input_grad_) wanted.push_back(input_);
    for (const at::Tensor& leaf : leaves_)
      if (leaf.requires_grad()) wanted.push_back(leaf);
    if (wanted.empty()) return {};
    const variable_list found = torch::autograd::grad(
        {features_}, wanted, {gradient.to(features_.scalar_type())}, /*retain_graph=*/false,
        /*create_graph=*/false);
    size_t next = input_grad_ ? 1 : 0;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      if (!leaves_[i].requires_grad()) continue;
      const at::Tensor& one = found[next++];
      if (totals[i].defined()) {
        totals[i].add_(one);
      } else {
        totals[i] = one.to(accumulation_type(one.scalar_type()), false, /*copy=*/true);
      }
    }
    return input_grad_ ? found[0] : at::Tensor();
  }

 private:
  at::Tensor input_, features_;
  variable_list leaves_;
  bool input_grad_;
};

struct HybridFunction : torch::autograd::Function<HybridFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, at::TensorList phi_parameters,
                               const SoftmaxForward& softmax, const c10::intrusive_ptr<Settings>& settings) {
    const size_t half = 2 * settings->phi_q.layers;
    FeatureMap phi_q{settings->phi_q, {}, {}}, phi_k{settings->phi_k, {}, {}};
    for (size_t i = 0; i < phi_parameters.size(); ++i) {
      FeatureMap& phi = i < half ? phi_q : phi_k;
      (i % 2 == 0 ? phi.weight : phi.bias).push_back(phi_parameters[i]);
    }
    const LinearSums sums = linear_sums(k, v, phi_k, settings->rate);
    auto [y, n] = merge_linear(softmax, q, sums, phi_q, settings->rate, settings->stabilizer);
    variable_list saved{q,      k, v, softmax.output, softmax.lse, softmax.max, softmax.argmax, sums.s,
                        sums.z, y, n};
    saved.insert(saved.end(), phi_parameters.begin(), phi_parameters.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["settings"] = c10::IValue::make_capsule(settings);
    ctx->mark_non_differentiable({n});
    return {y, n};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto capsule = ctx->saved_data["settings"].toCapsule();
    const Settings& settings = static_cast<const Settings&>(*capsule);
    const variable_list saved = ctx->get_saved_variables();
    Backward work(settings, saved, gradients[0]);
    for (size_t i = 0; i < 3; ++i) work.wanted[i] = saved[i].requires_grad();
    work.queries();
    work.keys();
    if (!settings.rate.is_linear()) work.softmax();
    variable_list result;
    for (size_t i = 0; i < 3; ++i)
      result.push_back(work.of_input[i].defined() ? work.of_input[i].to(saved[i].scalar_type())
                                                  : at::Tensor());
    for (size_t i = 0; i < work.of_phi.size(); ++i) {
      const at::Tensor &one = work.of_phi[i], &parameter = work.parameters[i];
      // Where T_L is empty nothing flows to phi_k; zeros let callers reduce every parameter alike.
      result.push_back(one.defined()               ? one.to(parameter.scalar_type())
                       : parameter.requires_grad() ? at::zeros_like(parameter)
                                                   : at::Tensor());
    }
    result.emplace_back();  // softmax
    result.emplace_back();  // settings
    return result;
  }

  /// The backward pass of one call; the formulas are those of the quotient y = a / n.
  struct Backward {
    const Settings& settings;
    at::Tensor q, k, v, s, z, y, n;
    SoftmaxForward part;
    variable_list parameters, of_phi;
    at::Tensor dy, dy_over_n, row_over_n;  // row = dot(dy, y)
    at::Tensor ds, dz;
    bool wanted[3] = {false, false, false};
    at::Tensor of_input[3];

    Backward(const Settings& settings_, const variable_list& saved, const at::Tensor& gradient)
        : settings(settings_),
          q(saved[0]),
          k(saved[1]),
          v(saved[2]),
          s(saved[7]),
          z(saved[8]),
          y(saved[9]),
          n(saved[10]),
          part{saved[3], saved[4], saved[5], saved[6]},
          parameters(saved.begin() + 11, saved.end()),
          of_phi(parameters.size()),
          dy(gradient) {
      dy_over_n = dy / n.unsqueeze(3);
      row_over_n = (dy_over_n * y).sum(3);
      ds = at::zeros_like(s);
      dz = at::zeros_like(z);
    }

    at::ArrayRef<at::Tensor> phi_parameters(bool of_q) const {
      const size_t half = 2 * settings.phi_q.layers;
      return of_q ? at::ArrayRef<at::Tensor>(parameters).slice(0, half)
                  : at::ArrayRef<at::Tensor>(parameters).slice(half);
    }
    std::span<at::Tensor> phi_totals(bool of_q) {
      const size_t half = 2 * settings.phi_q.layers;
      return of_q ? std::span(of_phi).first(half) : std::span(of_phi).subspan(half);
    }

    /// The linear term's gradient to phi_q and q; collects dS and dz over all queries.
    void queries() {
      if (wanted[0]) of_input[0] = at::empty_like(q, q.options().dtype(s.scalar_type()));
      for (const auto& [begin, length] : token_tiles(q, settings.phi_q, Rate::linear())) {
        PhiTile tile(settings.phi_q, phi_parameters(true), q.narrow(2, begin, length), wanted[0]);
        const at::Tensor features = tile.features().to(s.scalar_type());
        const at::Tensor over_n = dy_over_n.narrow(2, begin, length),
                         row = row_over_n.narrow(2, begin, length);
        ds += grouped_product(features.transpose(2, 3), over_n);
        dz -= at::matmul(row.unsqueeze(2), features).squeeze(2);
        const at::Tensor of_features =
            grouped_product(over_n, s.transpose(2, 3)) - row.unsqueeze(3) * z.unsqueeze(2);
        const at::Tensor dq = tile.backward(of_features, phi_totals(true));
        if (wanted[0]) of_input[0].narrow(2, begin, length).copy_(dq);
      }
    }

    /// The linear term's gradient to phi_k, and to k and v at T_L.
    void keys() {
      if (wanted[1]) of_input[1] = at::empty_like(k, k.options().dtype(s.scalar_type()));
      if (wanted[2]) of_input[2] = at::empty_like(v, v.options().dtype(s.scalar_type()));
      for (const auto& [begin, length] : token_tiles(k, settings.phi_k, settings.rate)) {
        const at::Tensor x = linear_tokens(k.narrow(2, begin, length), settings.rate);
        if (x.size(2) == 0) continue;
        PhiTile tile(settings.phi_k, phi_parameters(false), x, wanted[1]);
        const at::Tensor values =
            linear_tokens(v.narrow(2, begin, length), settings.rate).to(s.scalar_type());
        const at::Tensor dk =
            tile.backward(grouped_product(values, ds.transpose(2, 3)) + dz.unsqueeze(2), phi_totals(false));
        if (wanted[1]) put_linear_tokens(of_input[1].narrow(2, begin, length), settings.rate, dk);
        if (wanted[2])
          put_linear_tokens(of_input[2].narrow(2, begin, length), settings.rate,
                            grouped_product(tile.features().to(s.scalar_type()), ds));
      }
    }

    /// The softmax part's gradient to q, and to k and v at T_S.
    void softmax() {
      if (!(wanted[0] || wanted[1] || wanted[2])) return;
      const int64_t stride = settings.rate.stride(), count = k.size(2);
      const at::Tensor ks = k.slice(2, 0, count, stride), vs = v.slice(2, 0, count, stride);
      const at::ScalarType type = q.scalar_type();
      SoftmaxGradients one;
      if (settings.stabilizer == Stabilizer::lse) {
        one = softmax_backward(dy_over_n.to(type), q, ks, vs, part.output, part.lse);
      } else {
        one = softmax_backward(dy, q, ks, vs, y, part.max + at::log(n));
        if (settings.max_gradient == MaxGradient::through && (wanted[0] || wanted[1]))
          through_maximum(one, ks);
      }
      if (wanted[0]) of_input[0] += one.q;
      if (wanted[1]) of_input[1].slice(2, 0, count, stride).copy_(one.k);
      if (wanted[2]) of_input[2].slice(2, 0, count, stride).copy_(one.v);
    }

    /// c_i = s_ij at j = argmax moves with q_i and k_j. Its share -(dy.a_s - n_s dy.y)/n cancels in plain
    /// softmax, but not here, where c scales the softmax part only.
    void through_maximum(SoftmaxGradients& one, const at::Tensor& ks) const {
      const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
      const at::Tensor weight = at::exp(part.lse - part.max);
      const at::Tensor of_maximum =
          (weight * (row_over_n - (dy_over_n * part.output).sum(3)) * scale).unsqueeze(3);
      const at::Tensor index = part.argmax.unsqueeze(3).expand_as(q);
      one.q = one.q + of_maximum * ks.gather(2, index);
      one.k = one.k.to(s.scalar_type()).scatter_add(2, index, of_maximum * q);
    }
  };
};

/// merge_linear on threads, without gradient.
std::pair<at::Tensor, at::Tensor> merge_by_threads(const SoftmaxForward& softmax, const at::Tensor& weight,
                                                   const at::Tensor& q, const LinearSums& sums,
                                                   const FeatureMap& phi_q, Rate rate) {
  const int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2);
  const int64_t tiles = (tokens + thread_tile - 1) / thread_tile;
  const at::Tensor outputs = at::empty(q.sizes(), q.options()),
                   normalizers = at::empty({batch, heads, tokens}, q.options());
  at::parallel_for(0, batch * heads * tiles, 1, [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / tiles / heads, h = task / tiles % heads, first = task % tiles * thread_tile,
                    count = std::min(thread_tile, tokens - first);
      const auto here = [&](const at::Tensor& x) { return x[b][h].narrow(0, first, count); };
      const at::Tensor features =
          head_of(phi_q, h)(q.narrow(0, b, 1).narrow(1, h, 1).narrow(2, first, count))[0][0];
      at::Tensor y = product(features, sums.s[b][h]), n = here(normalizers);
      at::mv_out(n, features, sums.z[b][h]);
      if (weight.defined()) {
        y.addcmul_(here(softmax.output), here(weight).unsqueeze(1));
        n.add_(here(weight));
      } else if (!rate.is_linear()) {
        y.add_(here(softmax.output));
        n.add_(1);
      }
      at::Tensor place = here(outputs);
      at::div_out(place, y, n.unsqueeze(1));
    }
  });
  return {outputs, normalizers};
}

}  // namespace

std::pair<at::Tensor, at::Tensor> merge_linear(const SoftmaxForward& softmax, const at::Tensor& q,
                                               const LinearSums& sums, const FeatureMap& phi_q, Rate rate,
                                               Stabilizer stabilizer) {
  const at::Tensor weight = rate.is_linear() ? at::Tensor() : softmax_weight(softmax, stabilizer);
  if (prefers_thread_tiles(q, phi_q) && !(at::GradMode::is_enabled() && sums.s.requires_grad()))
    return merge_by_threads(softmax, weight, q, sums, phi_q, rate);
  std::vector<at::Tensor> outputs, normalizers;
  for (const auto& [begin, length] : token_tiles(q, phi_q.config, Rate::linear())) {
    const at::Tensor features = phi_q(q.narrow(2, begin, length));
    const auto of_sums = [&](const at::Tensor& x) {
      return grouped_product(features, x.to(features.scalar_type())).to(sums.s.scalar_type());
    };
    at::Tensor y = of_sums(sums.s), n = of_sums(sums.z.unsqueeze(3)).squeeze(3);
    if (!rate.is_linear()) {
      const at::Tensor part = softmax.output.narrow(2, begin, length);
      if (weight.defined()) {
        const at::Tensor w = weight.narrow(2, begin, length);
        y = y + w.unsqueeze(3) * part;
        n = n + w;
      } else {
        y = y + part;
        n = n + 1;
      }
    }
    outputs.push_back((y / n.unsqueeze(3)).to(q.scalar_type()));
    normalizers.push_back(n);
  }
  return {outputs.size() == 1 ? outputs[0] : at::cat(outputs, 2),
          normalizers.size() == 1 ? normalizers[0] : at::cat(normalizers, 2)};
}

std::pair<at::Tensor, at::Tensor> hybrid_function(const SoftmaxForward& softmax, const at::Tensor& q,
                                                  const at::Tensor& k, const at::Tensor& v,
                                                  const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                                                  Stabilizer stabilizer, MaxGradient max_gradient) {
  auto settings = c10::make_intrusive<Settings>();
  settings->phi_q = phi_q.config;
  settings->phi_k = phi_k.config;
  settings->rate = rate;
  settings->stabilizer = stabilizer;
  settings->max_gradient = max_gradient;
  std::vector<at::Tensor> parameters = phi_q.parameters();
  for (const at::Tensor& parameter : phi_k.parameters()) parameters.push_back(parameter);
  const variable_list result = HybridFunction::apply(q, k, v, at::TensorList(parameters), softmax, settings);
  return {result[0], result[1]};
}

}  // namespace surgery
