#pragma once
#include "attention/hybrid.h"
#include "base/random.h"
#include "base/tensor.h"

namespace surgery::test {

/// Random q, k, v and feature maps; fp64 unless told.
struct Sample {
  at::Tensor q, k, v;
  FeatureMap phi_q, phi_k;
};

inline FeatureMap random_feature_map(const FeatureMapConfig& config, RandomKey key, at::ScalarType type) {
  FeatureMap phi = FeatureMap::initial(config, key, -1.0);
  for (size_t l = 0; l < phi.weight.size(); ++l) {
    phi.weight[l] = phi.weight[l].to(type);
    phi.bias[l] = (phi.bias[l] + 0.1 * random_normal(key.with("bias").with(l), phi.bias[l].sizes())).to(type);
  }
  return phi;
}

inline Sample random_sample(int64_t batch, int64_t tokens, const FeatureMapConfig& config, uint64_t seed,
                            at::ScalarType type = at::kDouble, double spread = 2.0) {
  const RandomKey key{seed, 0};
  const std::vector<int64_t> shape{batch, config.heads, tokens, config.head_dim};
  return {(random_normal(key.with("q"), shape) * spread).to(type),
          (random_normal(key.with("k"), shape) * spread).to(type),
          random_normal(key.with("v"), shape).to(type), random_feature_map(config, key.with("phi_q"), type),
          random_feature_map(config, key.with("phi_k"), type)};
}

/// Every tensor of a sample, q, k, v first.
inline std::vector<at::Tensor> tensors(const Sample& sample) {
  std::vector<at::Tensor> all{sample.q, sample.k, sample.v};
  for (const FeatureMap* phi : {&sample.phi_q, &sample.phi_k})
    for (const at::Tensor& parameter : phi->parameters()) all.push_back(parameter);
  return all;
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

inline double largest(const at::Tensor& a) {
  return a.to(at::kDouble).abs().max().item<double>();
}

}  // namespace surgery::test
