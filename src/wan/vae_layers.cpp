#include "wan/vae_layers.h"

#include "base/errors.h"
#include "wan/channel_norm.h"

namespace surgery {
namespace {

constexpr int64_t kTaps = 3;           // every convolution over time looks at three frames
constexpr int64_t kManyChannels = 64;  // from here on conv3d, channels last, is as fast as folded taps
constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

/// `function` of every frame of x [T*B, C, H, W]. Where no gradient is wanted, one at a time into the
/// result: what the function needs in between is then that of a frame.
template <class Function>
at::Tensor frame_by_frame(const at::Tensor& x, const Function& function) {
  if (at::GradMode::is_enabled() || x.size(0) == 1) return function(x);
  at::Tensor all;
  for (int64_t i = 0; i < x.size(0); ++i) {
    const at::Tensor one = function(x.narrow(0, i, 1));
    if (!all.defined())
      all = at::empty({x.size(0), one.size(1), one.size(2), one.size(3)}, one.options(), kLayout);
    all.narrow(0, i, 1).copy_(one);
  }
  return all;
}

/// [T*B, C, H, W] -> [count*B, 3C, H, W]: frame i and the two after it, from every `step`-th i, side by side
/// in the channels. An own function, as the gradient of slicing would make and add three zero tensors in
/// another layout.
class FoldTaps : public torch::autograd::Function<FoldTaps> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t batch,
                            int64_t step) {
    context->saved_data["sizes"] = x.sizes();
    context->saved_data["batch"] = batch;
    context->saved_data["step"] = step;
    std::vector<at::Tensor> taps;
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      taps.push_back(frames_of_tap(x, tap, batch, step).flatten(0, 1).contiguous(kLayout));
    }
    return at::cat(taps, 1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto sizes = context->saved_data["sizes"].toIntVector();
    const int64_t batch = context->saved_data["batch"].toInt(), step = context->saved_data["step"].toInt();
    const auto dx = at::empty(sizes, gradients[0].options(), kLayout).zero_();
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      const auto part = gradients[0].narrow(1, tap * sizes[1], sizes[1]);
      frames_of_tap(dx, tap, batch, step).add_(part.unflatten(0, {-1, batch}));
    }
    return {dx, {}, {}};
  }

 private:
  /// [count, B, C, H, W], a view of x.
  static at::Tensor frames_of_tap(const at::Tensor& x, int64_t tap, int64_t batch, int64_t step) {
    const int64_t end = x.size(0) / batch - kTaps + tap + 1;
    return x.unflatten(0, {-1, batch}).slice(0, tap, end, step);
  }
};

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

at::Tensor VaeNetwork::to_frames(const at::Tensor& clip) const {
  return clip.permute({2, 0, 1, 3, 4}).flatten(0, 1).contiguous(kLayout);
}

at::Tensor VaeNetwork::to_clip(const at::Tensor& x) const {
  return x.unflatten(0, {length(x), batch_}).permute({1, 2, 0, 3, 4});
}

at::Tensor VaeNetwork::frames(const at::Tensor& x, int64_t begin, int64_t count) const {
  if (count < 0) count = length(x) - begin;
  return x.narrow(0, begin * batch_, count * batch_);
}

/// x with its history in front; at a clip's start that is two frames of zeros.
at::Tensor VaeNetwork::after(const at::Tensor& history, const at::Tensor& x) const {
  if (history.defined()) return at::cat({history, x});
  auto shape = x.sizes().vec();
  shape[0] = (kTaps - 1) * batch_;
  return at::cat({at::empty(shape, x.options(), kLayout).zero_(), x});
}

/// Per frame; weight [O, C, k, k] or [O, C, 1, 1, 1].
at::Tensor VaeNetwork::conv(const std::string& name, const at::Tensor& x, int64_t stride,
                            int64_t padding) const {
  const auto& weight = parameter(name + ".weight");
  return at::conv2d(x, weight.dim() == 5 ? weight.squeeze(2) : weight, parameter(name + ".bias"), stride,
                    padding);
}

/// Over three frames each, `step` frames apart, no padding in time; weight [O, C, 3, k, k].
/// On the CPU with few channels, or with gradient, the taps become input channels of a 2D convolution,
/// channels last: ten times as fast as conv3d with 8 channels. With many channels conv3d, channels last, is
/// as fast, and needs no copy of three times its input (tests/bench/vae_bench.py).
at::Tensor VaeNetwork::conv_over_time(const std::string& name, const at::Tensor& x, int64_t step) const {
  const auto& weight = parameter(name + ".weight");
  const auto& bias = parameter(name + ".bias");
  const int64_t padding = weight.size(3) / 2;
  if (!x.is_cpu()) {
    const auto y = at::conv3d(to_clip(x), weight, bias, {step, 1, 1}, {0, padding, padding});
    return y.permute({2, 0, 1, 3, 4}).flatten(0, 1);
  }
  if (batch_ == 1 && x.size(1) >= kManyChannels && !at::GradMode::is_enabled()) {
    const auto clip =
        x.unsqueeze(0).transpose(1, 2);  // [1, C, T, H, W] as it lies, the strides of channels last
    const auto by = weight.contiguous(at::MemoryFormat::ChannelsLast3d);
    return at::conv3d(clip, by, bias, {step, 1, 1}, {0, padding, padding}).transpose(1, 2).squeeze(0);
  }
  const auto folded = weight.transpose(1, 2).flatten(1, 2).contiguous(kLayout);  // [O, 3C, k, k], tap slowest
  return at::conv2d(FoldTaps::apply(x, batch_, step), folded, bias, 1, padding);
}

/// Of frames that have their history in front, two of them; the slot remembers the last two.
at::Tensor VaeNetwork::after_history(const std::string& name, at::Tensor padded, at::Tensor& slot,
                                     FeatureCache& cache) const {
  const bool start = !slot.defined();
  const int64_t count = length(padded) - (kTaps - 1);
  cache.store(slot, frames(padded, count));
  // A first frame alone sees only zeros before it: one tap of three does the work.
  if (start && count == 1) {
    return at::conv2d(frames(padded, kTaps - 1), parameter(name + ".weight").select(2, kTaps - 1),
                      parameter(name + ".bias"), 1, 1);
  }
  return conv_over_time(name, padded, 1);
}

at::Tensor VaeNetwork::causal_conv(const std::string& name, const at::Tensor& x, FeatureCache& cache) const {
  auto& slot = cache.next_slot();
  return after_history(name, after(slot, x), slot, cache);
}

/// silu(norm(x)) with its history in front.
at::Tensor VaeNetwork::norm_after(const at::Tensor& history, const std::string& norm,
                                  const at::Tensor& x) const {
  const auto& gamma = parameter(norm + ".gamma");
  if (at::GradMode::is_enabled()) return after(history, at::silu(channel_norm(x, gamma)));
  auto shape = x.sizes().vec();
  const int64_t before = (kTaps - 1) * batch_;
  shape[0] += before;
  const auto padded = at::empty(shape, x.options(), kLayout);
  if (history.defined())
    padded.narrow(0, 0, before).copy_(history);
  else
    padded.narrow(0, 0, before).zero_();
  channel_norm_silu_into(padded.narrow(0, before, x.size(0)), x, gamma);
  return padded;
}

/// x by value: it is let go before the convolution, where the caller has no more use for it.
at::Tensor VaeNetwork::causal_conv_of_norm(const std::string& name, const std::string& norm, at::Tensor x,
                                           FeatureCache& cache) const {
  auto& slot = cache.next_slot();
  auto padded = norm_after(slot, norm, x);
  x.reset();
  return after_history(name, std::move(padded), slot, cache);
}

at::Tensor VaeNetwork::res_block(const std::string& name, const at::Tensor& x, FeatureCache& cache) const {
  auto y = causal_conv_of_norm(name + ".conv1", name + ".norm1", x, cache);
  y = causal_conv_of_norm(name + ".conv2", name + ".norm2", std::move(y), cache);
  const auto past =
      parameters_.contains(name + ".conv_shortcut.weight") ? conv(name + ".conv_shortcut", x) : x;
  return at::GradMode::is_enabled() ? y + past : y.add_(past);
}

/// Per frame, one head over all positions.
at::Tensor VaeNetwork::attention(const std::string& name, const at::Tensor& x) const {
  const int64_t channels = x.size(1);
  const auto qkv = conv(name + ".to_qkv", channel_norm(x, parameter(name + ".norm.gamma")))
                       .flatten(2)
                       .transpose(1, 2)
                       .unsqueeze(1)
                       .contiguous();  // [T*B, 1, H*W, 3C]
  const auto mixed = at::scaled_dot_product_attention(
      qkv.narrow(3, 0, channels), qkv.narrow(3, channels, channels), qkv.narrow(3, 2 * channels, channels));
  const auto image = mixed.squeeze(1).transpose(1, 2).unflatten(2, {x.size(2), x.size(3)});
  return conv(name + ".proj", image) + x;
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
  const auto small = frame_by_frame(x, [&](const at::Tensor& frame) {
    return conv(name + ".resample.1", at::constant_pad_nd(frame, {0, 1, 0, 1}), 2);
  });
  if (!in_time) return small;
  auto& slot = cache.next_slot();
  const bool start = !slot.defined();
  const auto clip = start ? small : at::cat({slot, small});
  cache.store(slot, frames(small, length(small) - 1));
  if (!start) return conv_over_time(name + ".time_conv", clip, 2);
  if (length(clip) < kTaps) return clip;
  return at::cat({frames(clip, 0, 1), conv_over_time(name + ".time_conv", clip, 2)});
}

/// `in_time`, doubles the frames after the first; then doubles height and width and halves the channels.
at::Tensor VaeNetwork::upsample(const std::string& name, at::Tensor x, bool in_time,
                                FeatureCache& cache) const {
  const std::vector<int64_t> size{2 * x.size(2), 2 * x.size(3)};
  if (in_time) {
    auto& slot = cache.next_slot();
    const bool start = !slot.defined();
    // The first frame stays single and the time convolution never sees it: its history starts with zeros
    // after it.
    const auto tail = start ? frames(x, 1) : x;
    const auto padded = after(slot, tail);
    cache.store(slot, frames(padded, length(tail)));
    if (length(tail) > 0) {
      const auto pairs = conv_over_time(name + ".time_conv", padded, 1);
      // Channel halves become two frames: [T*B, 2C] -> [T, B, 2, C] -> [T, 2, B, C].
      const auto doubled =
          pairs.unflatten(1, {2, -1}).unflatten(0, {length(tail), batch_}).transpose(1, 2).flatten(0, 2);
      x = start ? at::cat({frames(x, 0, 1), doubled}) : doubled;
    }
  }
  return frame_by_frame(x.contiguous(kLayout), [&](const at::Tensor& frame) {
    return conv(name + ".resample.1", at::upsample_nearest2d(frame, size), 1, 1);
  });
}

at::Tensor VaeNetwork::head(const std::string& name, at::Tensor x, FeatureCache& cache) const {
  return causal_conv_of_norm(name + ".conv_out", name + ".norm_out", std::move(x), cache);
}

at::Tensor VaeNetwork::encode_chunk(const at::Tensor& video, FeatureCache& cache) const {
  cache.begin_chunk();
  auto x = causal_conv("encoder.conv_in", to_frames(video), cache);
  int64_t block = 0;  // diffusers counts residual and resampling blocks in one list
  const auto name = [&] { return fmt::format("encoder.down_blocks.{}", block++); };
  for (size_t level = 0; level < config_.dim_mult.size(); ++level) {
    for (int64_t i = 0; i < config_.num_res_blocks; ++i) x = res_block(name(), x, cache);
    if (level + 1 < config_.dim_mult.size())
      x = downsample(name(), x, config_.temperal_downsample[level], cache);
  }
  x = middle("encoder.mid_block", x, cache);
  return to_clip(conv("quant_conv", head("encoder", std::move(x), cache)));
}

at::Tensor VaeNetwork::decode_chunk(const at::Tensor& latents, FeatureCache& cache) const {
  cache.begin_chunk();
  auto x = causal_conv("decoder.conv_in", conv("post_quant_conv", to_frames(latents)), cache);
  x = middle("decoder.mid_block", x, cache);
  const size_t levels = config_.dim_mult.size();
  for (size_t level = 0; level < levels; ++level) {
    const auto block = fmt::format("decoder.up_blocks.{}", level);
    for (int64_t i = 0; i <= config_.num_res_blocks; ++i) {
      x = res_block(fmt::format("{}.resnets.{}", block, i), x, cache);
    }
    if (level + 1 == levels) break;
    // The decoder doubles in time where the encoder halved, in reverse order.
    x = upsample(block + ".upsamplers.0", std::move(x), config_.temperal_downsample[levels - 2 - level],
                 cache);
  }
  return to_clip(head("decoder", std::move(x), cache));
}

}  // namespace surgery
