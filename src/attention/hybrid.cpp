#include "attention/hybrid.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "attention/hybrid_function.h"
#include "attention/linear_term.h"
#include "attention/softmax_kernels.h"
#include "base/errors.h"

namespace surgery {
namespace {

void check_feature_map(const FeatureMap& phi, const at::Tensor& x, std::string_view name) {
  const FeatureMapConfig& config = phi.config;
  VALIDATE(config.heads == x.size(1) && config.head_dim == x.size(3),
           "{} is for {} heads of {}, attention has {} heads of {} (the feature map belongs to another "
           "model): give the "
           "one distilled for this block",
           name, config.heads, config.head_dim, x.size(1), x.size(3));
  VALIDATE(static_cast<int64_t>(phi.weight.size()) == config.layers && phi.bias.size() == phi.weight.size(),
           "{} has {} weights and {} biases, its configuration {} layers: load all layers", name,
           phi.weight.size(), phi.bias.size(), config.layers);
  for (int64_t l = 0; l < config.layers; ++l) {
    const int64_t in = l == 0 ? config.head_dim : config.features();
    VALIDATE(phi.weight[l].sizes() == at::IntArrayRef({config.heads, config.features(), in}) &&
                 phi.bias[l].sizes() == at::IntArrayRef({config.heads, config.features()}),
             "{} layer {}: weight [{}] and bias [{}], wanted [{}, {}, {}] and [{}, {}]: degree or layers "
             "differ from the "
             "configuration",
             name, l, fmt::join(phi.weight[l].sizes(), ", "), fmt::join(phi.bias[l].sizes(), ", "),
             config.heads, config.features(), in, config.heads, config.features());
  }
}

void check_hybrid_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const FeatureMap& phi_q, const FeatureMap& phi_k) {
  check_attention_inputs(q, k, v);
  check_feature_map(phi_q, q, "phi_q");
  check_feature_map(phi_k, k, "phi_k");
  VALIDATE(phi_q.config.features() == phi_k.config.features(),
           "phi_q has {} features, phi_k {} (their product is taken): use one degree for both",
           phi_q.config.features(), phi_k.config.features());
}

/// Bytes that a graph of phi over all tokens would keep for its backward.
bool graph_fits(const at::Tensor& q, const FeatureMapConfig& phi) {
  constexpr double budget = 1.0e9;
  const double floats = static_cast<double>(q.numel()) * phi.degree * (2.0 * phi.layers + 3.0) * 2.0;
  return floats * 4.0 < budget;
}

}  // namespace

std::string to_string(Stabilizer stabilizer) {
  return stabilizer == Stabilizer::max ? "max" : "lse";
}

Stabilizer parse_stabilizer(std::string_view name) {
  if (name == "max") return Stabilizer::max;
  if (name == "lse") return Stabilizer::lse;
  fail_usage("stabilizer '{}' is not known (c_i of Eq. 5): give max or lse", name);
}

at::Tensor hybrid_from_part(const SoftmaxPart& part, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                            Stabilizer stabilizer, double* smallest_normalizer) {
  if (rate.is_full()) return part.output;
  check_hybrid_inputs(q, k, v, phi_q, phi_k);
  SoftmaxForward softmax;
  if (!rate.is_linear()) {
    VALIDATE(part.output.defined() && part.lse.defined(),
             "rate {} got no softmax part (Eq. 5 needs T_S): compute it first", rate.name());
    VALIDATE(part.output.sizes() == q.sizes(),
             "softmax part [{}] belongs to other queries than q [{}]: take both from one sample",
             fmt::join(part.output.sizes(), ", "), fmt::join(q.sizes(), ", "));
    VALIDATE(stabilizer == Stabilizer::lse || part.max.defined(),
             "softmax part lacks its row maximum (stabilizer `max` scales by it): compute the part with it");
    softmax = {part.output, part.lse, part.max, {}};
  }
  at::Tensor normalizer, y;
  if (graph_fits(q, phi_q.config)) {
    std::tie(y, normalizer) =
        merge_linear(softmax, q, linear_sums(k, v, phi_k, rate), phi_q, rate, stabilizer);
  } else {
    std::tie(y, normalizer) = hybrid_function(softmax, q.detach(), k.detach(), v.detach(), phi_q, phi_k, rate,
                                              stabilizer, MaxGradient::constant);
  }
  if (smallest_normalizer) *smallest_normalizer = normalizer.detach().min().item<double>();
  return y;
}

at::Tensor hybrid_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const FeatureMap& phi_q, const FeatureMap& phi_k, Rate rate,
                            Stabilizer stabilizer, MaxGradient max_gradient) {
  if (rate.is_full()) return full_attention(q, k, v);
  check_hybrid_inputs(q, k, v, phi_q, phi_k);
  SoftmaxForward softmax;
  if (!rate.is_linear()) {
    const bool index = max_gradient == MaxGradient::through && at::GradMode::is_enabled() &&
                       (q.requires_grad() || k.requires_grad());
    const RowMaximum maximum = stabilizer == Stabilizer::lse ? RowMaximum::none
                               : index                       ? RowMaximum::value_and_index
                                                             : RowMaximum::value;
    const int64_t stride = rate.stride(), keys = k.size(2);
    softmax = softmax_forward(q, k.slice(2, 0, keys, stride), v.slice(2, 0, keys, stride), maximum);
  }
  return hybrid_function(softmax, q, k, v, phi_q, phi_k, rate, stabilizer, max_gradient).first;
}

}  // namespace surgery
