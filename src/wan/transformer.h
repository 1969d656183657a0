#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attention/hybrid.h"
#include "base/random.h"
#include "base/tensor.h"
#include "parallel/bucket_layout.h"
#include "storage/tensor_store.h"
#include "wan/block_stream.h"
#include "wan/precision.h"
#include "wan/rope.h"
#include "wan/weights_writer.h"

namespace surgery {

/// `hybrid` of transformer/config.json: one rate per block.
struct HybridSettings {
  std::vector<Rate> rates;
  int64_t phi_degree = 2, phi_layers = 2;
  OutputActivation phi_output_activation = OutputActivation::softplus;
  Stabilizer stabilizer = Stabilizer::max;
};

/// transformer/config.json (diffusers' WanTransformer3DModel).
struct TransformerConfig {
  int64_t num_layers = 30, num_attention_heads = 12, attention_head_dim = 128;
  int64_t in_channels = 16, out_channels = 16, ffn_dim = 8960, freq_dim = 256, text_dim = 4096;
  std::vector<int64_t> patch_size{1, 2, 2};
  double eps = 1e-6;
  bool cross_attn_norm = true;
  int64_t rope_max_seq_len = 1024;
  std::optional<HybridSettings> hybrid;

  int64_t dim() const { return num_attention_heads * attention_head_dim; }
  FeatureMapConfig feature_map() const;
  static TransformerConfig from_json(const std::string& text,
                                     const std::string& where);  ///< Error{data} names keys
  std::string to_json() const;
  /// The original Wan2.1's config.json, which `from_json` reads too. `text_length`: rows of padded text.
  std::string to_wan_json(int64_t text_length = 512) const;
};

/// Every parameter's name (diffusers') and shape at a configuration, phi of its hybrid blocks included.
std::map<std::string, std::vector<int64_t>> transformer_parameter_shapes(const TransformerConfig& config);

/// Writes config.json and weights into `folder`, of a hybrid model with diffusers' names also the file that
/// loads it there (wan/diffusers_loader.h); what `kept_in_fp32` names is at least fp32 whatever the dtype.
/// `parameters` under our names. Error{io}; Error{data} for numbers that the dtype cannot hold.
void save_transformer(const TransformerConfig& config, const LazyTensors& parameters,
                      const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as = {});

/// Replaces (q, k, v) -> o of a block's self-attention; all [batch, heads, tokens, head_dim], q and k after
/// qk-norm and RoPE. The block index comes first.
using AttentionFunction =
    std::function<at::Tensor(int64_t block, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

/// Told when a forward or its backward comes to the parameters of a group (Transformer::parameter_groups'
/// numbers), for parameters that are not whole all the time.
struct GroupHooks {
  /// The last group, what is outside the blocks, is told of before_forward alone, once a forward. Where
  /// backward ends before a block (nothing before it is trained), the block is not told of it.
  std::function<void(int64_t group)> before_forward, after_forward, before_backward;
};

/// Wan2.1's diffusion transformer, parameters under diffusers' names. Device and dtype are those of the
/// parameters. With bf16 parameters it rounds as `Precision` says (as diffusers, unless `to` was told else);
/// statistics of norms, modulation, gated sums and RoPE are computed in fp32 either way.
class Transformer {
 public:
  Transformer(TransformerConfig config,
              TensorMap parameters);  ///< checks names and shapes; Error{data} lists all faults
  /// From wherever find_part (wan/checkpoint.h) finds it, in any layout; parameters stay mapped.
  static Transformer load(const std::filesystem::path& where);
  /// Its configuration alone; no weights are needed where a transformer/config.json tells it.
  static TransformerConfig read_config(const std::filesystem::path& where);
  static Transformer random(const TransformerConfig& config,
                            RandomKey key);  ///< initial weights for pretraining (wan/initial_weights.h)
  /// As save_transformer.
  void save(const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as = {}) const;

  const TransformerConfig& config() const { return config_; }
  TensorMap& parameters() { return parameters_; }
  const TensorMap& parameters() const { return parameters_; }
  /// The parameters that are trained (empty: all) as leaves that require grad, grouped for buckets: one group
  /// per block, then what is outside the blocks. The others require none.
  std::vector<ParameterGroup> parameter_groups(
      const std::function<bool(const std::string& name)>& trained = {});
  void set_requires_grad(bool value);
  /// Of a model that streams: it does no more. What will be trained (empty: all) becomes a leaf of its dtype,
  /// on the device, that requires grad and has no memory yet; the rest shares that of `frozen`, which has
  /// the same values (a teacher's), where it is there in its dtype, and has its own otherwise. Returns the
  /// parameters as they were, mapped: what they start from.
  TensorMap begin_training(at::Device device, Precision precision,
                           const std::function<bool(const std::string& name)>& trained = {},
                           const TensorMap& frozen = {});
  /// Converts to memory of its own (no longer mapped), each parameter to precision.of_parameter. Of a model
  /// that streams, all but the streamed parameters is converted, those whenever a forward comes to them.
  void to(at::Device device, Precision precision);
  at::Device device() const;     ///< where it computes
  at::ScalarType dtype() const;  ///< in what: that of the blocks' products
  /// A copy; of a model that streams, the mapping is shared.
  Transformer clone() const;

  /// From now on the blocks' parameters (but for phi) stay as they are, mapped as `load` gives them, and
  /// every forward converts them a block at a time (wan/block_stream.h), to the same bits as `to` would. For
  /// forwards without gradient, one at a time.
  void stream();
  bool streams() const { return stream_ != nullptr; }
  void keep_blocks();  ///< ends streaming: every parameter in memory of its own

  /// Makes blocks hybrid: rates in config().hybrid, phi parameters `blocks.{i}.attn1.phi_q.{l}.weight` etc.
  /// added.
  void make_hybrid(const HybridSettings& settings,
                   const std::function<std::pair<FeatureMap, FeatureMap>(int64_t block)>& phi);
  FeatureMap phi_q(int64_t block) const;
  FeatureMap phi_k(int64_t block) const;

  /// hidden_states [B, in_channels, T, H, W], timestep [B] (0..1000, fp32 or whole numbers whatever the
  /// precision), text [B, L, text_dim] -> velocity, same shape. `attention`, when given, replaces every
  /// block's self-attention core; else each block's own rate is used. `last_block`: stop after this block's
  /// self-attention was called (returns an undefined tensor); -1 = whole model.
  at::Tensor forward(const at::Tensor& hidden_states, const at::Tensor& timestep, const at::Tensor& text,
                     const AttentionFunction* attention = nullptr, int64_t last_block = -1) const;

  MaxGradient max_gradient = MaxGradient::through;
  /// Of a forward with gradient, every k-th block that backward comes to keeps its inputs alone and is
  /// computed again in backward; 0 = none, 1 = every block. The model must live, unmoved, until backward is
  /// done; so with hooks.
  int64_t recompute_every = 0;
  std::shared_ptr<const GroupHooks> hooks;

 private:
  struct Modulation;
  bool trains_block(int64_t block) const;  ///< any of its parameters requires grad
  void stream_to(at::Device device, Precision precision);
  const at::Tensor& parameter(const std::string& name) const;
  BlockStream::Block block_weights(int64_t block) const;
  at::Tensor linear(const TensorMap& weights, const std::string& name, const at::Tensor& x) const;
  at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift) const;
  at::Tensor gated_sum(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) const;
  at::Tensor norm_heads(const TensorMap& weights, const std::string& name, const at::Tensor& x) const;
  Modulation embed_time(const at::Tensor& timestep) const;
  at::Tensor embed_text(const at::Tensor& text) const;
  at::Tensor self_attention(const TensorMap& weights, int64_t block, const at::Tensor& x,
                            const at::Tensor& rope, const AttentionFunction* attention) const;
  at::Tensor cross_attention(const TensorMap& weights, int64_t block, const at::Tensor& x,
                             const at::Tensor& text) const;
  at::Tensor feed_forward(const TensorMap& weights, int64_t block, const at::Tensor& x) const;
  /// x [B, tokens, D], six [B, 6, D], context [B, L, D] -> x; undefined when `until_attention`.
  at::Tensor block_forward(const TensorMap& weights, int64_t block, const at::Tensor& x,
                           const at::Tensor& six, const at::Tensor& context, const at::Tensor& rope,
                           const AttentionFunction* attention, bool until_attention) const;
  at::Tensor trained_block(int64_t block, const at::Tensor& x, const at::Tensor& six,
                           const at::Tensor& context, const at::Tensor& rope) const;
  at::Tensor head(const at::Tensor& x, const Modulation& time) const;

  TransformerConfig config_;
  TensorMap parameters_;
  Rounding rounding_ = Rounding::diffusers;
  std::shared_ptr<BlockStream> stream_;  ///< none: every parameter is converted already
  std::shared_ptr<RopeCache> rope_ = std::make_shared<RopeCache>();
};

}  // namespace surgery
