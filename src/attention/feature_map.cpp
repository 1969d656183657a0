#include "attention/feature_map.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <utility>

#include "attention/grouped_product.h"
#include "base/errors.h"

namespace surgery {
namespace {

constexpr std::array<std::pair<OutputActivation, std::string_view>, 6> output_activations{{
    {OutputActivation::softplus, "softplus"},
    {OutputActivation::relu, "relu"},
    {OutputActivation::elu1, "elu1"},
    {OutputActivation::exp, "exp"},
    {OutputActivation::square, "square"},
    {OutputActivation::none, "none"},
}};

at::Tensor apply(OutputActivation activation, const at::Tensor& x) {
  switch (activation) {
    case OutputActivation::softplus:
      return at::softplus(x);
    case OutputActivation::relu:
      return at::relu(x);
    case OutputActivation::elu1:
      return at::elu(x) + 1;
    case OutputActivation::exp:
      return at::exp(x);
    case OutputActivation::square:
      return at::square(x);
    case OutputActivation::none:
      return x;
  }
  fail_expectation("known output activation", __FILE__, __LINE__);
}

}  // namespace

std::string to_string(OutputActivation activation) {
  for (const auto& [value, name] : output_activations)
    if (value == activation) return std::string(name);
  fail_expectation("known output activation", __FILE__, __LINE__);
}

OutputActivation parse_output_activation(std::string_view name) {
  std::string known;
  for (const auto& [value, word] : output_activations) {
    if (word == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(word);
  }
  fail_usage("output activation '{}' of phi is not known: give one of {}", name, known);
}

FeatureMap FeatureMap::initial(const FeatureMapConfig& config, RandomKey key, double last_bias) {
  config.check();
  // A bias of -3 makes the exponential-like activations small (softplus(-3) = 0.05). The others would be dead
  // (relu), large (square) or negative (none) there: they start as small by a small last layer around 0.05.
  const OutputActivation activation = config.output_activation;
  const bool exponential = activation == OutputActivation::softplus || activation == OutputActivation::elu1 ||
                           activation == OutputActivation::exp;
  double last_gain = 1;
  if (!exponential) {
    last_gain = 0.02;
    last_bias = std::log1p(std::exp(last_bias));
    if (activation == OutputActivation::square) last_bias = std::sqrt(last_bias);
  }
  FeatureMap phi{config, {}, {}};
  for (int64_t l = 0; l < config.layers; ++l) {
    const int64_t in = l == 0 ? config.head_dim : config.features(), out = config.features();
    const bool last = l + 1 == config.layers;
    const double deviation = (last ? last_gain : 1.0) / std::sqrt(static_cast<double>(in));
    phi.weight.push_back(random_normal(key.with(static_cast<uint64_t>(l)), {config.heads, out, in}) *
                         deviation);
    phi.bias.push_back(at::full({config.heads, out}, last ? last_bias : 0.0, at::kFloat));
  }
  return phi;
}

at::Tensor FeatureMap::operator()(const at::Tensor& input) const {
  VALIDATE(input.dim() == 4 && input.size(1) == config.heads && input.size(3) == config.head_dim,
           "phi of {} heads of {} got a tensor of shape {} (wanted [batch, heads, tokens, head_dim])",
           config.heads, config.head_dim, fmt::join(input.sizes(), "x"));
  const int64_t batch = input.size(0), heads = config.heads, features = config.features();
  at::Tensor x = input.to(weight.at(0).scalar_type());
  for (int64_t l = 0; l < config.layers; ++l) {
    const at::Tensor w = weight[l].transpose(1, 2).unsqueeze(0), b = bias[l].reshape({1, heads, 1, features});
    x = grouped_product(x, w.expand({batch, heads, w.size(2), w.size(3)})) + b;
    if (l + 1 < config.layers) x = at::gelu(x);
  }
  x = apply(config.output_activation, x);
  if (config.degree == 1) return x;
  if (!x.requires_grad()) {
    // Nothing will be differentiated: x is this call's own (`none` of it is the sum above), so powers are in
    // place.
    for (int64_t p = 1; p < config.degree; ++p) x.narrow(3, p * config.head_dim, config.head_dim).pow_(p + 1);
    return x;
  }
  std::vector<at::Tensor> slices = x.split(config.head_dim, 3);
  for (int64_t p = 1; p < config.degree; ++p) slices[p] = slices[p].pow(p + 1);
  return at::cat(slices, 3);
}

std::vector<at::Tensor> FeatureMap::parameters() const {
  std::vector<at::Tensor> all;
  for (size_t l = 0; l < weight.size(); ++l) {
    all.push_back(weight[l]);
    all.push_back(bias.at(l));
  }
  return all;
}

void FeatureMapConfig::check() const {
  VALIDATE(
      heads >= 1 && head_dim >= 1 && degree >= 1 && layers >= 1,
      "phi with {} heads of {}, degree {}, {} layers (each must be at least 1): correct the configuration",
      heads, head_dim, degree, layers);
}

}  // namespace surgery
