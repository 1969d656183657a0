#include "recipe/vae_memory.h"

#include <algorithm>

#include "wan/vae_layers.h"

namespace surgery {
namespace {

/// Walks one chunk through the levels and counts elements: what the cache's slots hold at the end, and the
/// most that is alive at once.
class MemoryWalk {
 public:
  MemoryWalk(double frames, double area) : frames_(frames), area_(area) {}

  /// A causal convolution: `kept` more tensors of as many channels live through it; its input has two frames
  /// of history in front, of which a copy replaces the slot.
  void causal(double kept, double in, double out) {
    slots_ += 2 * in * area_;
    alive(kept * frames_ + in * (frames_ + 2) + std::max(out * frames_, 2 * in));
  }
  void residual(double in, double out) {
    causal(in, in, out);
    causal(in, out, out);
    alive(frames_ * (in + 2 * out));
  }
  void middle(double dim) {
    residual(dim, dim);
    alive(frames_ * 8 * dim);  // x, q, k, v and their copy, the mixture
    residual(dim, dim);
  }
  /// One frame after the other: the padded picture and its half beside the whole input and result.
  void downsample(double dim, bool in_time) {
    alive(frames_ * dim * 1.25 + dim * 1.25);
    area_ /= 4;
    if (!in_time) return;
    slots_ += dim * area_;
    alive(dim * (2 * frames_ + 1 + frames_ / 2));
    frames_ = std::max(1.0, frames_ / 2);
  }
  void upsample(double dim, bool in_time, bool more_frames) {
    if (in_time) {
      slots_ += 2 * dim * area_;
      alive(dim * (frames_ + (frames_ + 2) + 4 * frames_));
      if (more_frames) frames_ *= 2;
    }
    area_ *= 4;
    alive(frames_ * dim * 0.25 + frames_ * dim / 2 + dim * 1.5);
  }
  /// Allocator and convolution library keep about half of what the tensors take (measured).
  double elements() const { return slots_ + 1.5 * most_; }

 private:
  void alive(double channels_and_frames) { most_ = std::max(most_, channels_and_frames * area_); }
  double frames_, area_, slots_ = 0, most_ = 0;
};

double picture(int64_t height, int64_t width, const VaeTiling& tiling) {
  const auto side = [&](int64_t pixels) {
    return static_cast<double>(tiling.tile > 0 ? std::min(pixels, tiling.tile) : pixels);
  };
  return side(height) * side(width);
}

}  // namespace

double vae_encode_memory(const VaeConfig& config, int64_t frames, int64_t height, int64_t width,
                         const VaeTiling& tiling, double bytes) {
  const VaeLevels levels(config);
  const auto dim = [&](size_t i) { return static_cast<double>(levels.encoder[i]); };
  const double chunk = frames > 1 ? static_cast<double>(config.time_stride()) : 1;
  MemoryWalk walk(chunk, picture(height, width, tiling));
  walk.causal(0, 3, dim(0));
  for (size_t level = 0; level < config.dim_mult.size(); ++level) {
    for (int64_t r = 0; r < config.num_res_blocks; ++r)
      walk.residual(dim(r == 0 ? level : level + 1), dim(level + 1));
    if (level + 1 < config.dim_mult.size())
      walk.downsample(dim(level + 1), config.temperal_downsample[level]);
  }
  walk.middle(dim(config.dim_mult.size()));
  walk.causal(0, dim(config.dim_mult.size()), 2 * static_cast<double>(config.z_dim));
  return bytes * walk.elements();
}

double vae_decode_memory(const VaeConfig& config, int64_t frames, int64_t height, int64_t width,
                         const VaeTiling& tiling, double bytes) {
  const VaeLevels levels(config);
  const size_t count = config.dim_mult.size();
  const auto space = static_cast<double>(config.space_stride());
  MemoryWalk walk(1, picture(height, width, tiling) / (space * space));
  const auto widest = static_cast<double>(levels.decoder_in.front());
  walk.causal(0, static_cast<double>(config.z_dim), widest);
  walk.middle(widest);
  for (size_t level = 0; level < count; ++level) {
    const auto in = static_cast<double>(levels.decoder_in[level]),
               out = static_cast<double>(levels.decoder_out[level]);
    for (int64_t r = 0; r <= config.num_res_blocks; ++r) walk.residual(r == 0 ? in : out, out);
    if (level + 1 < count) walk.upsample(out, config.temperal_downsample[count - 2 - level], frames > 1);
  }
  walk.causal(0, static_cast<double>(levels.decoder_out.back()), 3);
  return bytes * walk.elements();
}

}  // namespace surgery
