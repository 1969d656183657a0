#include "wan/sizes_from_tensors.h"

#include <fmt/format.h>

#include <optional>

#include "base/errors.h"
#include "base/text.h"

namespace surgery {
namespace {

constexpr int64_t kWanHeadDim = 128;

/// Reads extents of tensors by name; every failure names the tensor.
class Extents {
 public:
  Extents(const TensorMap& tensors, const std::string& where) : tensors_(tensors), where_(where) {}

  bool has(const std::string& name) const { return tensors_.contains(name); }
  int64_t of(const std::string& name, size_t axis) const {
    const auto found = tensors_.find(name);
    VALIDATE(found != tensors_.end(),
             "{}: tensor {} is missing (without a config.json the model's sizes follow from its tensors): "
             "give the "
             "complete weights",
             where_, name);
    const at::IntArrayRef shape = found->second.sizes();
    VALIDATE(axis < shape.size() && shape[axis] > 0,
             "{}: tensor {} has {} axes (no tensor of Wan2.1 by that name): give Wan2.1's weights", where_,
             name, shape.size());
    return shape[axis];
  }
  /// One more than the greatest number behind `before`; 0 when there is none.
  int64_t count(const std::string& before) const {
    int64_t count = 0;
    for (auto it = tensors_.lower_bound(before); it != tensors_.end() && it->first.starts_with(before);
         ++it) {
      const std::string& name = it->first;
      const auto number =
          parse_number<int64_t>(name.substr(before.size(), name.find('.', before.size()) - before.size()));
      if (number && *number >= 0 && *number < 4096) count = std::max(count, *number + 1);
    }
    return count;
  }
  int64_t quotient(const std::string& name, int64_t extent, int64_t divisor, const char* of_what) const {
    VALIDATE(
        divisor > 0 && extent % divisor == 0,
        "{}: tensor {} has extent {}, no multiple of {} {} (not Wan2.1's sizes): give a config.json with the "
        "weights",
        where_, name, extent, divisor, of_what);
    return extent / divisor;
  }

 private:
  const TensorMap& tensors_;
  const std::string& where_;
};

}  // namespace

TransformerConfig transformer_sizes(const TensorMap& tensors, const std::string& where) {
  const Extents extents(tensors, where);
  const std::string patch = "patch_embedding.weight", head = "head.head.weight";
  TransformerConfig config;
  config.num_layers = extents.count("blocks.");
  config.attention_head_dim = kWanHeadDim;
  config.num_attention_heads = extents.quotient(patch, extents.of(patch, 0), kWanHeadDim, "channels a head");
  config.in_channels = extents.of(patch, 1);
  config.patch_size = {extents.of(patch, 2), extents.of(patch, 3), extents.of(patch, 4)};
  const int64_t patch_cells = config.patch_size[0] * config.patch_size[1] * config.patch_size[2];
  config.out_channels = extents.quotient(head, extents.of(head, 0), patch_cells, "cells a patch");
  config.ffn_dim = extents.of("blocks.0.ffn.0.weight", 0);
  config.freq_dim = extents.of("time_embedding.0.weight", 1);
  config.text_dim = extents.of("text_embedding.0.weight", 1);
  config.cross_attn_norm = extents.has("blocks.0.norm3.weight");
  for (const auto& [name, tensor] : tensors)
    VALIDATE(
        name.find(".self_attn.phi_") == std::string::npos,
        "{}: tensor {} belongs to a hybrid model (rates and feature maps are told by its config.json): give "
        "the folder that holds both",
        where, name);
  return config;
}

VaeConfig vae_sizes(const TensorMap& tensors, const std::string& where) {
  const Extents extents(tensors, where);
  VaeConfig config;
  config.base_dim = extents.of("encoder.conv1.weight", 0);
  config.z_dim = extents.of("conv2.weight", 0);
  config.dim_mult.clear();
  config.temperal_downsample.clear();
  config.num_res_blocks = 0;
  // The encoder's row: residual blocks of a level, then the resampling that leads to the next one.
  const int64_t modules = extents.count("encoder.downsamples.");
  bool level_begins = true;
  for (int64_t n = 0; n < modules; ++n) {
    const std::string module = fmt::format("encoder.downsamples.{}.", n);
    if (extents.has(module + "resample.1.weight")) {
      config.temperal_downsample.push_back(extents.has(module + "time_conv.weight"));
      level_begins = true;
      continue;
    }
    const std::string weight = module + "residual.2.weight";
    if (level_begins)
      config.dim_mult.push_back(
          extents.quotient(weight, extents.of(weight, 0), config.base_dim, "channels of the first level"));
    if (config.dim_mult.size() == 1) ++config.num_res_blocks;
    level_begins = false;
  }
  const std::string decoder = "decoder.conv1.weight";
  VALIDATE(!config.dim_mult.empty(),
           "{}: no tensor begins with encoder.downsamples. (no VAE of Wan2.1): give it", where);
  const int64_t decoder_dim =
      extents.quotient(decoder, extents.of(decoder, 0), config.dim_mult.back(), "times the first level");
  if (decoder_dim != config.base_dim) config.decoder_base_dim = decoder_dim;
  config.set_wan_statistics(where);
  config.check(where);
  return config;
}

TextEncoderConfig text_encoder_sizes(const TensorMap& tensors, Naming naming, const std::string& where) {
  const Extents extents(tensors, where);
  const bool wan = naming == Naming::wan;
  const std::string block = wan ? "blocks.0." : "encoder.block.0.layer.";
  const std::string embedding = wan ? "token_embedding.weight" : "shared.weight",
                    bias = block + (wan ? "pos_embedding.embedding.weight"
                                        : "0.SelfAttention.relative_attention_bias.weight"),
                    query = block + (wan ? "attn.q.weight" : "0.SelfAttention.q.weight"),
                    gate = block + (wan ? "ffn.gate.0.weight" : "1.DenseReluDense.wi_0.weight");
  TextEncoderConfig config;
  config.vocab_size = extents.of(embedding, 0);
  config.d_model = extents.of(embedding, 1);
  config.num_layers = extents.count(wan ? "blocks." : "encoder.block.");
  config.relative_attention_num_buckets = extents.of(bias, 0);
  config.num_heads = extents.of(bias, 1);
  config.d_kv = extents.quotient(query, extents.of(query, 0), config.num_heads, "heads");
  config.d_ff = extents.of(gate, 0);
  return config;
}

}  // namespace surgery
