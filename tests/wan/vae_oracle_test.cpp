// Wan's VAE against a second, plain implementation: the whole clip at once, no cache, no chunks, LibTorch's
// conv3d. What re-implementations have got wrong is switched on in it one at a time, to show that the
// comparison sees it.
#include <gtest/gtest.h>

#include "wan/vae.h"

namespace surgery {
namespace {

enum class Mistake {
  none,
  symmetric_padding,      // downsampling pads all sides instead of right and below: half a pixel off
  second_sees_first,      // upsampling in time convolves over the first frame too
  interleave_swapped,     // of the two frames that a channel half each becomes, the second comes first
  first_frame_doubled,    // upsampling makes two frames of the first one too: 4T frames instead of 4T-3
  time_padded_both_sides  // convolutions that are not causal
};

struct Plain {
  const VaeConfig& config;
  const TensorMap& parameters;
  Mistake mistake = Mistake::none;

  at::Tensor weight(const std::string& name) const { return parameters.at(name + ".weight"); }
  at::Tensor bias(const std::string& name) const { return parameters.at(name + ".bias"); }

  // x [B, C, T, H, W] everywhere
  at::Tensor causal(const std::string& name, const at::Tensor& x) const {
    const auto w = weight(name);
    const int64_t p = w.size(3) / 2, t = w.size(2) - 1;
    const bool both = mistake == Mistake::time_padded_both_sides;
    return at::conv3d(at::constant_pad_nd(x, {p, p, p, p, both ? t / 2 : t, both ? t / 2 : 0}), w,
                      bias(name));
  }
  at::Tensor norm(const std::string& name, const at::Tensor& x) const {
    const auto length = x.square().sum({1}, true).sqrt().clamp_min(1e-12);
    return x / length * std::sqrt(double(x.size(1))) *
           parameters.at(name + ".gamma").reshape({1, -1, 1, 1, 1});
  }
  at::Tensor residual(const std::string& name, const at::Tensor& x) const {
    auto y = causal(name + ".conv1", at::silu(norm(name + ".norm1", x)));
    y = causal(name + ".conv2", at::silu(norm(name + ".norm2", y)));
    return y + (parameters.contains(name + ".conv_shortcut.weight") ? causal(name + ".conv_shortcut", x) : x);
  }
  at::Tensor per_frame(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& f) const {
    std::vector<at::Tensor> all;
    for (int64_t t = 0; t < x.size(2); ++t) all.push_back(f(x.select(2, t)));
    return at::stack(all, 2);
  }
  at::Tensor attention(const std::string& name, const at::Tensor& x) const {
    return x + per_frame(norm(name + ".norm", x), [&](const at::Tensor& frame) {
             const auto qkv = at::conv2d(frame, weight(name + ".to_qkv"), bias(name + ".to_qkv")).flatten(2);
             const auto parts = qkv.chunk(3, 1);  // [B, C, H*W]
             const auto scores =
                 at::matmul(parts[0].transpose(1, 2), parts[1]) / std::sqrt(double(x.size(1)));
             const auto mixed = at::matmul(parts[2], at::softmax(scores, -1).transpose(1, 2));
             return at::conv2d(mixed.view_as(frame), weight(name + ".proj"), bias(name + ".proj"));
           });
  }
  at::Tensor middle(const std::string& name, const at::Tensor& x) const {
    return residual(name + ".resnets.1", attention(name + ".attentions.0", residual(name + ".resnets.0", x)));
  }
  at::Tensor down(const std::string& name, const at::Tensor& x, bool in_time) const {
    const auto y = per_frame(x, [&](const at::Tensor& frame) {
      const bool wrong = mistake == Mistake::symmetric_padding;
      const auto padded = at::constant_pad_nd(
          frame, wrong ? std::vector<int64_t>{1, 1, 1, 1} : std::vector<int64_t>{0, 1, 0, 1});
      return at::conv2d(padded, weight(name + ".resample.1"), bias(name + ".resample.1"), 2);
    });
    if (!in_time || y.size(2) == 1) return y;
    return at::cat(
        {y.narrow(2, 0, 1), at::conv3d(y, weight(name + ".time_conv"), bias(name + ".time_conv"), {2, 1, 1})},
        2);
  }
  at::Tensor doubled(const std::string& name, const at::Tensor& x) const {
    const auto pairs = causal(name + ".time_conv", x).chunk(2, 1);
    const bool swapped = mistake == Mistake::interleave_swapped;
    return at::stack({pairs[swapped ? 1 : 0], pairs[swapped ? 0 : 1]}, 3).flatten(2, 3);
  }
  at::Tensor up(const std::string& name, at::Tensor x, bool in_time) const {
    if (in_time && mistake == Mistake::first_frame_doubled) {
      x = doubled(name, x);
    } else if (in_time && x.size(2) > 1) {
      const auto rest =
          mistake == Mistake::second_sees_first ? doubled(name, x).slice(2, 2) : doubled(name, x.slice(2, 1));
      x = at::cat({x.narrow(2, 0, 1), rest}, 2);
    }
    return per_frame(x, [&](const at::Tensor& frame) {
      const auto large = frame.repeat_interleave(2, 2).repeat_interleave(2, 3);
      return at::conv2d(large, weight(name + ".resample.1"), bias(name + ".resample.1"), 1, 1);
    });
  }

  at::Tensor encode(const at::Tensor& video) const {
    auto x = causal("encoder.conv_in", video);
    int64_t block = 0;
    const auto name = [&] { return fmt::format("encoder.down_blocks.{}", block++); };
    for (size_t level = 0; level < config.dim_mult.size(); ++level) {
      for (int64_t i = 0; i < config.num_res_blocks; ++i) x = residual(name(), x);
      if (level + 1 < config.dim_mult.size()) x = down(name(), x, config.temperal_downsample[level]);
    }
    x = at::silu(norm("encoder.norm_out", middle("encoder.mid_block", x)));
    return causal("quant_conv", causal("encoder.conv_out", x)).narrow(1, 0, config.z_dim);
  }
  at::Tensor decode(const at::Tensor& latents) const {
    auto x = middle("decoder.mid_block", causal("decoder.conv_in", causal("post_quant_conv", latents)));
    const size_t levels = config.dim_mult.size();
    for (size_t level = 0; level < levels; ++level) {
      const auto block = fmt::format("decoder.up_blocks.{}", level);
      for (int64_t i = 0; i <= config.num_res_blocks; ++i)
        x = residual(fmt::format("{}.resnets.{}", block, i), x);
      if (level + 1 < levels)
        x = up(block + ".upsamplers.0", x, config.temperal_downsample[levels - 2 - level]);
    }
    return causal("decoder.conv_out", at::silu(norm("decoder.norm_out", x)));
  }
};

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

class VaeOracle : public testing::Test {
 protected:
  static VaeConfig config() {
    VaeConfig config;
    config.base_dim = 8;
    config.z_dim = 4;
    config.num_res_blocks = 1;
    return config;
  }
  Vae vae_ = Vae::random(config(), RandomKey{21});
  at::Tensor video_ = random_uniform(RandomKey{22}, {1, 3, 17, 24, 32}) * 2 - 1;
  at::Tensor latents_ = random_normal(RandomKey{23}, {1, 4, 5, 3, 4});
  Plain plain(Mistake mistake = Mistake::none) const { return {vae_.config(), vae_.parameters(), mistake}; }
};

TEST_F(VaeOracle, ChunkByChunkIsThePlainFunction) {
  const at::NoGradGuard no_gradient;
  EXPECT_LT(difference(vae_.encode(video_).mean, plain().encode(video_)), 5e-6);
  EXPECT_LT(difference(vae_.decode(latents_), plain().decode(latents_).clamp(-1, 1)), 5e-6);
}

TEST_F(VaeOracle, EveryKnownMistakeOfEncodersIsSeen) {
  const at::NoGradGuard no_gradient;
  const auto ours = vae_.encode(video_).mean;
  for (const Mistake mistake : {Mistake::symmetric_padding, Mistake::time_padded_both_sides})
    EXPECT_GT(difference(plain(mistake).encode(video_), ours), 1e-2) << static_cast<int>(mistake);
}

TEST_F(VaeOracle, EveryKnownMistakeOfDecodersIsSeen) {
  const at::NoGradGuard no_gradient;
  const auto ours = vae_.decode(latents_);
  for (const Mistake mistake :
       {Mistake::second_sees_first, Mistake::interleave_swapped, Mistake::time_padded_both_sides})
    EXPECT_GT(difference(plain(mistake).decode(latents_).clamp(-1, 1), ours), 1e-3)
        << static_cast<int>(mistake);
  EXPECT_EQ(plain(Mistake::first_frame_doubled).decode(latents_).size(2), 4 * 5);
  EXPECT_EQ(ours.size(2), 4 * 5 - 3);
}

}  // namespace
}  // namespace surgery
