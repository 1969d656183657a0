#include "recipe/component_cost.h"

#include <map>

namespace surgery {
namespace {

int64_t elements(const std::map<std::string, std::vector<int64_t>>& shapes) {
  int64_t sum = 0;
  for (const auto& [name, shape] : shapes) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    sum += count;
  }
  return sum;
}

/// Walks the VAE's levels and adds up convolutions.
class VaeWalk {
 public:
  VaeWalk(int64_t frames, int64_t height, int64_t width) : t_(frames), h_(height), w_(width) {}

  void convolution(int64_t taps, int64_t in, int64_t out) {
    flops_ += 2.0 * positions() * double(taps * in * out);
  }
  void residual(int64_t in, int64_t out) {
    convolution(27, in, out);
    convolution(27, out, out);
    if (in != out) convolution(1, in, out);
  }
  void middle(int64_t dim) {
    residual(dim, dim);
    convolution(1, dim, 4 * dim);  // q, k, v and the projection
    const double of_frame = double(h_ * w_);
    flops_ += 4.0 * double(t_) * of_frame * of_frame * double(dim);
    residual(dim, dim);
  }
  void halve_space() { h_ /= 2, w_ /= 2; }
  void double_space() { h_ *= 2, w_ *= 2; }
  void halve_time() { t_ = (t_ - 1) / 2 + 1; }
  void double_time() { t_ = 2 * t_ - 1; }
  double flops() const { return flops_; }

 private:
  double positions() const { return double(t_) * double(h_) * double(w_); }
  int64_t t_, h_, w_;
  double flops_ = 0;
};

int64_t level_dim(const VaeConfig& config, size_t level) {
  return config.base_dim * config.dim_mult[level];
}

}  // namespace

int64_t parameter_count(const TransformerConfig& config) {
  return elements(transformer_parameter_shapes(config));
}
double parameter_bytes(const TransformerConfig& config, Precision precision) {
  double bytes = 0;
  for (const auto& [name, shape] : transformer_parameter_shapes(config)) {
    double count = 1;
    for (const int64_t size : shape) count *= double(size);
    bytes += count * double(c10::elementSize(precision.of_parameter(name)));
  }
  return bytes;
}
int64_t parameter_count(const VaeConfig& config) {
  return elements(vae_parameter_shapes(config));
}

int64_t parameter_count(const TextEncoderConfig& c) {
  const int64_t inner = c.num_heads * c.d_kv;
  const int64_t layer = 4 * c.d_model * inner + 3 * c.d_model * c.d_ff + 2 * c.d_model +
                        c.relative_attention_num_buckets * c.num_heads;
  return c.vocab_size * c.d_model + c.num_layers * layer + c.d_model;
}

double vae_encode_flops(const VaeConfig& config, int64_t frames, int64_t height, int64_t width) {
  VaeWalk walk(frames, height, width);
  int64_t dim = config.base_dim;
  walk.convolution(27, 3, dim);
  for (size_t level = 0; level < config.dim_mult.size(); ++level) {
    const int64_t out = level_dim(config, level);
    for (int64_t r = 0; r < config.num_res_blocks; ++r) walk.residual(r == 0 ? dim : out, out);
    dim = out;
    if (level + 1 == config.dim_mult.size()) break;
    walk.halve_space();
    walk.convolution(9, dim, dim);
    if (config.temperal_downsample[level]) {
      walk.halve_time();
      walk.convolution(3, dim, dim);
    }
  }
  walk.middle(dim);
  walk.convolution(27, dim, 2 * config.z_dim);
  walk.convolution(1, 2 * config.z_dim, 2 * config.z_dim);
  return walk.flops();
}

double vae_decode_flops(const VaeConfig& config, int64_t frames, int64_t height, int64_t width) {
  const size_t levels = config.dim_mult.size();
  int64_t t = frames, space = 1;
  for (const bool temporal : config.temperal_downsample) {
    space *= 2;
    if (temporal) t = (t - 1) / 2 + 1;
  }
  VaeWalk walk(t, height / space, width / space);
  int64_t dim = level_dim(config, levels - 1);
  walk.convolution(1, config.z_dim, config.z_dim);
  walk.convolution(27, config.z_dim, dim);
  walk.middle(dim);
  for (size_t up = 0; up < levels; ++up) {
    const size_t level = levels - 1 - up;
    const int64_t out = level_dim(config, level);
    const int64_t in = up == 0 ? dim : dim / 2;  // the upsampling before halved the channels
    for (int64_t r = 0; r <= config.num_res_blocks; ++r) walk.residual(r == 0 ? in : out, out);
    dim = out;
    if (level == 0) break;
    if (config.temperal_downsample[level - 1]) {
      walk.convolution(3, dim, 2 * dim);
      walk.double_time();
    }
    walk.double_space();
    walk.convolution(9, dim, dim / 2);
  }
  walk.convolution(27, dim, 3);
  return walk.flops();
}

double text_encoder_flops(const TextEncoderConfig& c, int64_t tokens) {
  const double n = double(tokens), d = double(c.d_model), inner = double(c.num_heads * c.d_kv);
  const double layer = 2 * n * d * (4 * inner + 3 * double(c.d_ff)) + 4 * n * n * inner;
  return double(c.num_layers) * layer;
}

}  // namespace surgery
