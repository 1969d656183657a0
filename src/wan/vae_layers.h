#pragma once
#include <string>
#include <vector>

#include "base/tensor.h"
#include "storage/tensor_store.h"
#include "wan/vae.h"

namespace surgery {

/// What the causal layers remember of earlier chunks, one slot a layer in the order of execution. A slot that
/// holds nothing marks the start of a clip: the layer then pads as the whole-clip function does. So the whole
/// clip in one chunk, without memory, is the same code and the same function as any plan of chunks.
class FeatureCache {
 public:
  enum class Memory { none, keep };
  explicit FeatureCache(Memory memory) : memory_(memory) {}
  void begin_chunk() { next_ = 0; }
  /// The next layer's slot; undefined tensor at the start of a clip.
  at::Tensor& next_slot();
  /// Stores a copy (a view would keep the whole chunk's activations alive), unless there is no later chunk.
  void store(at::Tensor& slot, const at::Tensor& frames) const;

 private:
  Memory memory_;
  std::vector<at::Tensor> slots_;
  size_t next_ = 0;
};

/// The channel counts along encoder and decoder.
struct VaeLevels {
  std::vector<int64_t> encoder;      ///< [levels + 1]: input of level i, output of level i at i + 1
  std::vector<int64_t> decoder_in;   ///< [levels]; resampling halves what the level before put out
  std::vector<int64_t> decoder_out;  ///< [levels]
  explicit VaeLevels(const VaeConfig& config);
};

/// The encoder and decoder proper on one chunk of `batch` clips. Activations inside are [T*B, C, H, W], time
/// slowest, channels last in memory: a range of frames is then one contiguous piece, and the CPU's 2D
/// convolutions are at their fastest. Source: Wan2.1's WanVAE; names as in diffusers' AutoencoderKLWan.
class VaeNetwork {
 public:
  VaeNetwork(const VaeConfig& config, const TensorMap& parameters, int64_t batch)
      : config_(config), parameters_(parameters), batch_(batch) {}
  /// [B, 3, T, H, W] -> [B, 2 z, t, H/8, W/8] including quant_conv.
  at::Tensor encode_chunk(const at::Tensor& video, FeatureCache& cache) const;
  /// [B, z, t, h, w] -> [B, 3, T, 8h, 8w] including post_quant_conv.
  at::Tensor decode_chunk(const at::Tensor& latents, FeatureCache& cache) const;

 private:
  const at::Tensor& parameter(const std::string& name) const;
  int64_t length(const at::Tensor& x) const { return x.size(0) / batch_; }
  /// `count` frames of every clip from `begin` on; a negative count: to the end.
  at::Tensor frames(const at::Tensor& x, int64_t begin, int64_t count = -1) const;
  at::Tensor after(const at::Tensor& history, const at::Tensor& x) const;
  at::Tensor conv(const std::string& name, const at::Tensor& x, int64_t stride = 1,
                  int64_t padding = 0) const;
  at::Tensor conv_over_time(const std::string& name, const at::Tensor& x, int64_t step) const;
  at::Tensor causal_conv(const std::string& name, const at::Tensor& x, FeatureCache& cache) const;
  at::Tensor causal_conv_of_norm(const std::string& name, const std::string& norm, at::Tensor x,
                                 FeatureCache& cache) const;
  at::Tensor after_history(const std::string& name, at::Tensor padded, at::Tensor& slot,
                           FeatureCache& cache) const;
  at::Tensor norm_after(const at::Tensor& history, const std::string& norm, const at::Tensor& x) const;
  at::Tensor res_block(const std::string& name, const at::Tensor& x, FeatureCache& cache) const;
  at::Tensor attention(const std::string& name, const at::Tensor& x) const;
  at::Tensor middle(const std::string& name, at::Tensor x, FeatureCache& cache) const;
  at::Tensor downsample(const std::string& name, const at::Tensor& x, bool in_time,
                        FeatureCache& cache) const;
  at::Tensor upsample(const std::string& name, at::Tensor x, bool in_time, FeatureCache& cache) const;
  at::Tensor head(const std::string& name, at::Tensor x, FeatureCache& cache) const;
  at::Tensor to_frames(const at::Tensor& clip) const;
  at::Tensor to_clip(const at::Tensor& x) const;

  const VaeConfig& config_;
  const TensorMap& parameters_;
  int64_t batch_;
};

}  // namespace surgery
