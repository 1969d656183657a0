#include "recipe/attention_timing.h"

#include <torch/cuda.h>

#include <algorithm>

#include "base/clock.h"

namespace surgery {

double time_attention(const CostGeometry& geometry, const FeatureMapConfig& phi, Rate rate,
                      Stabilizer stabilizer, at::Device device, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const RandomKey key{1, 0};
  const auto draw = [&](const char* name) {
    return random_normal(key.with(name), {1, geometry.heads, geometry.tokens, geometry.head_dim})
        .to(device, dtype);
  };
  const at::Tensor q = draw("q"), k = draw("k"), v = draw("v");
  FeatureMap phi_q = FeatureMap::initial(phi, key.with("phi_q")),
             phi_k = FeatureMap::initial(phi, key.with("phi_k"));
  for (FeatureMap* map : {&phi_q, &phi_k}) {
    for (at::Tensor& w : map->weight) w = w.to(device, dtype);
    for (at::Tensor& b : map->bias) b = b.to(device, dtype);
  }
  std::vector<double> times;
  for (int repeat = 0; repeat < 6; ++repeat) {
    if (device.is_cuda()) torch::cuda::synchronize();
    const double start = steady_seconds();
    if (rate.is_full())
      at::scaled_dot_product_attention(q, k, v);
    else
      hybrid_attention(q, k, v, phi_q, phi_k, rate, stabilizer);
    if (device.is_cuda()) torch::cuda::synchronize();
    const double ms = 1e3 * (steady_seconds() - start);
    if (repeat > 0) times.push_back(ms);  // the first warms up
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

}  // namespace surgery
