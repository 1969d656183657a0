#include "attention/cost_model.h"

#include "base/errors.h"

namespace surgery {
namespace {

double product(int64_t rows, int64_t in, int64_t out) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
}

/// q k^T and P v over all heads.
double softmax_flops(const CostGeometry& g, int64_t keys) {
  return 2 * product(g.tokens, keys, g.heads * g.head_dim);
}

}  // namespace

double feature_map_flops(const FeatureMapConfig& phi, int64_t tokens) {
  const double first = product(tokens, phi.head_dim, phi.features());
  const double further = product(tokens, phi.features(), phi.features());
  return static_cast<double>(phi.heads) * (first + static_cast<double>(phi.layers - 1) * further);
}

int64_t feature_map_parameters(const FeatureMapConfig& phi) {
  const int64_t f = phi.features();
  return phi.heads * (phi.head_dim * f + (phi.layers - 1) * f * f + phi.layers * f);
}

double attention_core_flops(const CostGeometry& g, const FeatureMapConfig& phi, Rate rate) {
  if (rate.is_full()) return softmax_flops(g, g.tokens);
  const int64_t linear = rate.linear_tokens(g.tokens), width = phi.heads * phi.head_dim;
  const double maps = feature_map_flops(phi, g.tokens) + feature_map_flops(phi, linear);
  const double sums = product(linear, phi.features(), width) + product(g.tokens, phi.features(), width);
  return softmax_flops(g, rate.softmax_tokens(g.tokens)) + maps + sums;
}

double self_attention_flops(const CostGeometry& g) {
  return softmax_flops(g, g.tokens) + 4 * product(g.tokens, g.dim, g.dim);
}

double block_flops(const CostGeometry& g) {
  const double cross = 2 * product(g.tokens, g.dim, g.dim) + 2 * product(g.text_tokens, g.dim, g.dim) +
                       softmax_flops(g, g.text_tokens);
  return self_attention_flops(g) + cross + 2 * product(g.tokens, g.dim, g.ffn_dim);
}

double transformer_flops(const CostGeometry& g) {
  const double patches =
      product(g.tokens, g.in_channels * g.patch, g.dim) + product(g.tokens, g.dim, g.out_channels * g.patch);
  const double text = product(g.text_tokens, g.text_dim, g.dim) + product(g.text_tokens, g.dim, g.dim);
  const double time = product(1, g.freq_dim, g.dim) + product(1, g.dim, g.dim) + product(1, g.dim, 6 * g.dim);
  return patches + text + time + static_cast<double>(g.blocks) * block_flops(g);
}

int64_t video_tokens(int64_t frames, int64_t height, int64_t width) {
  VALIDATE(frames >= 1 && frames % 4 == 1,
           "{} frames do not fit the model (its VAE makes one latent frame of the first frame and of every "
           "four after "
           "it): give 4k+1 frames",
           frames);
  VALIDATE(height >= 16 && width >= 16 && height % 16 == 0 && width % 16 == 0,
           "a picture of {}x{} does not fit the model (a token covers 16 x 16 pixels): give multiples of 16",
           height, width);
  return ((frames - 1) / 4 + 1) * (height / 16) * (width / 16);
}

}  // namespace surgery
