#include "wan/initial_weights.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <numeric>

namespace surgery {
namespace {

using Shape = std::vector<int64_t>;

LazyTensor constant(const Shape& shape, double value) {
  return {shape, [value](int64_t begin, int64_t end) { return at::full({end - begin}, value, at::kFloat); }};
}
/// N(0, deviation^2)
LazyTensor normal(const Shape& shape, RandomKey key, double deviation) {
  return {shape, [key, deviation](int64_t begin, int64_t end) {
            return random_normal(key, begin, end).mul_(deviation);
          }};
}

double fan_in(const Shape& weight) {
  return std::accumulate(weight.begin() + 1, weight.end(), 1.0, std::multiplies<>());
}

LazyTensor initial_value(const std::string& name, const Shape& shape, int64_t dim, RandomKey key,
                         InitialHead head) {
  const auto names = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (names("scale_shift_table"))
    return {shape, [key, root = std::sqrt(static_cast<double>(dim))](int64_t begin, int64_t end) {
              return random_normal(key, begin, end).div_(root);
            }};
  if (name.ends_with(".bias")) return constant(shape, 0);
  if (names("norm")) return constant(shape, 1);
  if (name.starts_with("proj_out") && head == InitialHead::zero) return constant(shape, 0);
  if (names("text_embedder") || names("time_embedder")) return normal(shape, key, 0.02);
  const double limit = std::sqrt(6.0 / (fan_in(shape) + static_cast<double>(shape[0])));
  return {shape, [key, limit](int64_t begin, int64_t end) {
            return random_uniform(key, begin, end).mul_(2 * limit).sub_(limit);
          }};
}

/// The feature maps of one block, one tensor of them made again whenever it is asked for.
void add_feature_maps(LazyTensors& parameters, const FeatureMapConfig& config, int64_t block, RandomKey key) {
  for (const std::string side : {"q", "k"}) {
    const RandomKey side_key = key.with("phi").with(static_cast<uint64_t>(block)).with(side);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const std::string name = fmt::format("blocks.{}.attn1.phi_{}.{}", block, side, layer);
      const int64_t in = layer == 0 ? config.head_dim : config.features();
      const auto add = [&](const char* what, const Shape& shape, std::vector<at::Tensor> FeatureMap::*of) {
        parameters[name + what] = {shape, [=](int64_t begin, int64_t end) {
                                     const FeatureMap map = FeatureMap::initial(config, side_key);
                                     return (map.*of)[static_cast<size_t>(layer)].reshape(-1).slice(0, begin,
                                                                                                    end);
                                   }};
      };
      add(".weight", {config.heads, config.features(), in}, &FeatureMap::weight);
      add(".bias", {config.heads, config.features()}, &FeatureMap::bias);
    }
  }
}

}  // namespace

LazyTensors initial_transformer(const TransformerConfig& config, RandomKey key, InitialHead head) {
  TransformerConfig softmax = config;
  softmax.hybrid.reset();
  LazyTensors parameters;
  for (const auto& [name, shape] : transformer_parameter_shapes(softmax))
    parameters[name] = initial_value(name, shape, config.dim(), key.with(name), head);
  if (config.hybrid)
    for (int64_t block = 0; block < config.num_layers; ++block)
      if (!config.hybrid->rates[static_cast<size_t>(block)].is_full())
        add_feature_maps(parameters, config.feature_map(), block, key);
  return parameters;
}

LazyTensors initial_vae(const VaeConfig& config, RandomKey key) {
  config.check("VAE configuration");
  LazyTensors parameters;
  const auto shapes = vae_parameter_shapes(config);
  for (const auto& [name, shape] : shapes) {
    if (name.ends_with(".gamma")) {
      parameters[name] = constant(shape, 1);
      continue;
    }
    const double root = std::sqrt(fan_in(shapes.at(name.substr(0, name.rfind('.')) + ".weight")));
    parameters[name] = {shape, [own = key.with(name), root](int64_t begin, int64_t end) {
                          return random_uniform(own, begin, end).mul_(2).sub_(1).div_(root);
                        }};
  }
  return parameters;
}

LazyTensors initial_text_encoder(const TextEncoderConfig& config, RandomKey key) {
  constexpr double kOutputScale = 0.1;
  LazyTensors parameters;
  for (const auto& [name, shape] : text_encoder_parameter_shapes(config)) {
    if (shape.size() == 1) {
      parameters[name] = constant(shape, 1);
      continue;
    }
    double deviation = 1 / std::sqrt(fan_in(shape));
    if (name.starts_with("shared.") || name.ends_with("relative_attention_bias.weight")) deviation = 1;
    if (name.ends_with(".q.weight")) deviation /= std::sqrt(static_cast<double>(config.d_kv));
    if (name.ends_with(".o.weight") || name.ends_with(".wo.weight")) deviation *= kOutputScale;
    parameters[name] = normal(shape, key.with(name), deviation);
  }
  return parameters;
}

Transformer Transformer::random(const TransformerConfig& config, RandomKey key) {
  return Transformer(config, whole(initial_transformer(config, key)));
}

Vae Vae::random(const VaeConfig& config, RandomKey key) {
  return Vae(config, whole(initial_vae(config, key)));
}

TextEncoder TextEncoder::random(const TextEncoderConfig& config, RandomKey key) {
  return TextEncoder(config, whole(initial_text_encoder(config, key)));
}

}  // namespace surgery
