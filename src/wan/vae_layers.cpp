#include "wan/vae_layers.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr int64_t kTaps = 3;             // every causal convolution looks at this frame and two before
constexpr double kSmallestNorm = 1e-12;  // as torch.nn.functional.normalize

/// [B, T, C, H, W] -> [B*T, C, H, W] (a view when contiguous).
at::Tensor as_frames(const at::Tensor& x) {
  return x.reshape({x.size(0) * x.size(1), x.size(2), x.size(3), x.size(4)});
}

at::Tensor as_clip(const at::Tensor& frames, int64_t batch) {
  return frames.unflatten(0, {batch, -1});
}

at::Tensor zero_frames(const at::Tensor& like, int64_t count) {
  auto shape = like.sizes().vec();
  shape[1] = count;
  return at::zeros(shape, like.options());
}

/// A convolution over three frames, stride `step` in time, no padding in time. weight [O, C, 3, k, k].
/// On the CPU the taps become input channels of a 2D convolution: with few channels it is 5 to 10 times as
/// fast as conv3d (tests/bench/vae_bench.py measures it).
at::Tensor conv_over_time(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          int64_t step) {
  const int64_t padding = weight.size(3) / 2;
  const int64_t count = (x.size(1) - kTaps) / step + 1;
  if (!x.is_cpu()) {
    return at::conv3d(x.transpose(1, 2), weight, bias, {step, 1, 1}, {0, padding, padding}).transpose(1, 2);
  }
  std::vector<at::Tensor> taps;
  for (int64_t tap = 0; tap < kTaps; ++tap)
    taps.push_back(x.slice(1, tap, tap + (count - 1) * step + 1, step));
  const auto folded = weight.transpose(1, 2).flatten(1, 2);  // [O, 3C, k, k], tap slowest
  return as_clip(at::conv2d(as_frames(at::cat(taps, 2)), folded, bias, 1, padding), x.size(0));
}

}  // namespace

at::Tensor& FeatureCache::next_slot() {
  if (next_ == slots_.size()) slots_.emplace_back();
  return slots_[next_++];
}

void FeatureCache::store(at::Tensor& slot, const at::Tensor& frames) const {
  if (memory_ == Memory::keep) slot = frames.clone();
}

VaeLevels::VaeLevels(const VaeConfig& config) {
  const int64_t wide = config.decoder_base_dim > 0 ? config.decoder_base_dim : config.base_dim;
  encoder.push_back(config.base_dim);
  for (const int64_t m : config.dim_mult) encoder.push_back(config.base_dim * m);
  for (auto m = config.dim_mult.rbegin(); m != config.dim_mult.rend(); ++m) {
    decoder_in.push_back(decoder_out.empty() ? wide * *m : decoder_out.back() / 2);
    decoder_out.push_back(wide * *m);
  }
}

const at::Tensor& VaeNetwork::parameter(const std::string& name) const {
  const auto found = parameters_.find(name);
  EXPECT(found != parameters_.end());
  return found->second;
}

at::Tensor VaeNetwork::pointwise(const std::string& name, const at::Tensor& x) const {
  return as_clip(at::conv2d(as_frames(x), parameter(name + ".weight").squeeze(2), parameter(name + ".bias")),
                 x.size(0));
}

at::Tensor VaeNetwork::causal_conv(const std::string& name, const at::Tensor& x, FeatureCache& cache) const {
  const auto& weight = parameter(name + ".weight");
  const auto& bias = parameter(name + ".bias");
  auto& slot = cache.next_slot();
  const bool start = !slot.defined();
  const auto padded = at::cat({start ? zero_frames(x, kTaps - 1) : slot, x}, 1);
  cache.store(slot, padded.slice(1, x.size(1)));
  // A first frame alone sees only zeros before it: one tap of three does the work.
  if (start && x.size(1) == 1) {
    return as_clip(at::conv2d(as_frames(x), weight.select(2, kTaps - 1), bias, 1, 1), x.size(0));
  }
  return conv_over_time(padded, weight, bias, 1);
}

/// x / max(||x||, 1e-12) * sqrt(C) * gamma over the channels; in fp32 below that precision.
at::Tensor VaeNetwork::norm(const std::string& name, const at::Tensor& x) const {
  const auto& gamma = parameter(name + ".gamma");
  const auto wide = x.element_size() < 4 ? x.to(at::kFloat) : x;
  const auto squares = (wide * wide).sum({2}, /*keepdim=*/true).clamp_min(kSmallestNorm * kSmallestNorm);
  const auto unit = (wide * squares.rsqrt()).to(x.scalar_type());
  return unit * (gamma.flatten() * std::sqrt(static_cast<double>(x.size(2)))).view({-1, 1, 1});
}

at::Tensor VaeNetwork::res_block(const std::string& name, const at::Tensor& x, FeatureCache& cache) const {
  auto y = causal_conv(name + ".conv1", at::silu(norm(name + ".norm1", x)), cache);
  y = causal_conv(name + ".conv2", at::silu(norm(name + ".norm2", y)), cache);
  return y +
         (parameters_.contains(name + ".conv_shortcut.weight") ? pointwise(name + ".conv_shortcut", x) : x);
}

/// Per frame, one head over all positions.
at::Tensor VaeNetwork::attention(const std::string& name, const at::Tensor& x) const {
  const int64_t channels = x.size(2);
  const auto frames = as_frames(norm(name + ".norm", x));
  const auto qkv = at::conv2d(frames, parameter(name + ".to_qkv.weight"), parameter(name + ".to_qkv.bias"))
                       .flatten(2)
                       .transpose(1, 2)
                       .unsqueeze(1)
                       .contiguous();  // [B*T, 1, H*W, 3C]
  const auto mixed = at::scaled_dot_product_attention(
      qkv.narrow(3, 0, channels), qkv.narrow(3, channels, channels), qkv.narrow(3, 2 * channels, channels));
  const auto image = mixed.squeeze(1).transpose(1, 2).reshape(frames.sizes());
  const auto y = at::conv2d(image, parameter(name + ".proj.weight"), parameter(name + ".proj.bias"));
  return as_clip(y, x.size(0)) + x;
}

at::Tensor VaeNetwork::middle(const std::string& name, at::Tensor x, FeatureCache& cache) const {
  x = res_block(name + ".resnets.0", x, cache);
  x = attention(name + ".attentions.0", x);
  return res_block(name + ".resnets.1", x, cache);
}

/// Halves height and width (zeros to the right and below only), then, `in_time`, halves the frames after the
/// first.
at::Tensor VaeNetwork::downsample(const std::string& name, const at::Tensor& x, bool in_time,
                                  FeatureCache& cache) const {
  const auto padded = at::constant_pad_nd(as_frames(x), {0, 1, 0, 1});
  const auto small = as_clip(
      at::conv2d(padded, parameter(name + ".resample.1.weight"), parameter(name + ".resample.1.bias"), 2),
      x.size(0));
  if (!in_time) return small;
  const auto& weight = parameter(name + ".time_conv.weight");
  const auto& bias = parameter(name + ".time_conv.bias");
  auto& slot = cache.next_slot();
  const bool start = !slot.defined();
  const auto frames = start ? small : at::cat({slot, small}, 1);
  cache.store(slot, small.slice(1, small.size(1) - 1));
  if (!start) return conv_over_time(frames, weight, bias, 2);
  if (frames.size(1) < kTaps) return frames;
  return at::cat({frames.slice(1, 0, 1), conv_over_time(frames, weight, bias, 2)}, 1);
}

/// `in_time`, doubles the frames after the first; then doubles height and width and halves the channels.
at::Tensor VaeNetwork::upsample(const std::string& name, const at::Tensor& x, bool in_time,
                                FeatureCache& cache) const {
  auto clip = x;
  if (in_time) {
    auto& slot = cache.next_slot();
    const bool start = !slot.defined();
    // The first frame stays single and the time convolution never sees it: its history starts with zeros
    // after it.
    const auto tail = start ? x.slice(1, 1) : x;
    const auto frames = at::cat({start ? zero_frames(x, kTaps - 1) : slot, tail}, 1);
    cache.store(slot, frames.slice(1, tail.size(1)));
    if (tail.size(1) > 0) {
      const auto pairs = conv_over_time(frames, parameter(name + ".time_conv.weight"),
                                        parameter(name + ".time_conv.bias"), 1);
      const auto doubled = pairs.unflatten(2, {2, -1}).flatten(1, 2);  // channel halves become two frames
      clip = start ? at::cat({x.slice(1, 0, 1), doubled}, 1) : doubled;
    }
  }
  const auto frames = as_frames(clip);
  const auto large = at::upsample_nearest2d(frames, {2 * frames.size(2), 2 * frames.size(3)});
  return as_clip(
      at::conv2d(large, parameter(name + ".resample.1.weight"), parameter(name + ".resample.1.bias"), 1, 1),
      x.size(0));
}

at::Tensor VaeNetwork::head(const std::string& name, const at::Tensor& x, FeatureCache& cache) const {
  return causal_conv(name + ".conv_out", at::silu(norm(name + ".norm_out", x)), cache);
}

at::Tensor VaeNetwork::encode_chunk(const at::Tensor& video, FeatureCache& cache) const {
  cache.begin_chunk();
  auto x = causal_conv("encoder.conv_in", video, cache);
  int64_t block = 0;  // diffusers counts residual and resampling blocks in one list
  const auto name = [&] { return fmt::format("encoder.down_blocks.{}", block++); };
  for (size_t level = 0; level < config_.dim_mult.size(); ++level) {
    for (int64_t i = 0; i < config_.num_res_blocks; ++i) x = res_block(name(), x, cache);
    if (level + 1 < config_.dim_mult.size())
      x = downsample(name(), x, config_.temperal_downsample[level], cache);
  }
  x = middle("encoder.mid_block", x, cache);
  return pointwise("quant_conv", head("encoder", x, cache));
}

at::Tensor VaeNetwork::decode_chunk(const at::Tensor& latents, FeatureCache& cache) const {
  cache.begin_chunk();
  auto x = causal_conv("decoder.conv_in", pointwise("post_quant_conv", latents), cache);
  x = middle("decoder.mid_block", x, cache);
  const size_t levels = config_.dim_mult.size();
  for (size_t level = 0; level < levels; ++level) {
    const auto block = fmt::format("decoder.up_blocks.{}", level);
    for (int64_t i = 0; i <= config_.num_res_blocks; ++i) {
      x = res_block(fmt::format("{}.resnets.{}", block, i), x, cache);
    }
    if (level + 1 == levels) break;
    // The decoder doubles in time where the encoder halved, in reverse order.
    x = upsample(block + ".upsamplers.0", x, config_.temperal_downsample[levels - 2 - level], cache);
  }
  return head("decoder", x, cache);
}

}  // namespace surgery
