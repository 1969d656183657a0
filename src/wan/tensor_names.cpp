#include "wan/tensor_names.h"

#include <fmt/format.h>

#include <vector>

#include "base/errors.h"

namespace surgery {
namespace {

/// Beginnings of names, ours and Wan's; the first row that fits counts.
struct Row {
  std::string ours, wan;
};
using Rows = std::vector<Row>;

const Rows kTransformerBlock{
    {"scale_shift_table", "modulation"},
    {"attn1.to_q.", "self_attn.q."},
    {"attn1.to_k.", "self_attn.k."},
    {"attn1.to_v.", "self_attn.v."},
    {"attn1.to_out.0.", "self_attn.o."},
    {"attn1.norm_q.", "self_attn.norm_q."},
    {"attn1.norm_k.", "self_attn.norm_k."},
    {"attn1.phi_q.", "self_attn.phi_q."},  // ours alone: feature maps of hybrid blocks
    {"attn1.phi_k.", "self_attn.phi_k."},
    {"norm2.", "norm3."},  // diffusers numbers the norms as they are executed
    {"attn2.to_q.", "cross_attn.q."},
    {"attn2.to_k.", "cross_attn.k."},
    {"attn2.to_v.", "cross_attn.v."},
    {"attn2.to_out.0.", "cross_attn.o."},
    {"attn2.norm_q.", "cross_attn.norm_q."},
    {"attn2.norm_k.", "cross_attn.norm_k."},
    {"ffn.net.0.proj.", "ffn.0."},
    {"ffn.net.2.", "ffn.2."}};
const Rows kTransformerRest{{"patch_embedding.", "patch_embedding."},
                            {"condition_embedder.text_embedder.linear_1.", "text_embedding.0."},
                            {"condition_embedder.text_embedder.linear_2.", "text_embedding.2."},
                            {"condition_embedder.time_embedder.linear_1.", "time_embedding.0."},
                            {"condition_embedder.time_embedder.linear_2.", "time_embedding.2."},
                            {"condition_embedder.time_proj.", "time_projection.1."},
                            {"scale_shift_table", "head.modulation"},
                            {"proj_out.", "head.head."}};

const Rows kTextBlock{{"layer.0.layer_norm.", "norm1."},
                      {"layer.0.SelfAttention.relative_attention_bias.", "pos_embedding.embedding."},
                      {"layer.0.SelfAttention.", "attn."},
                      {"layer.1.layer_norm.", "norm2."},
                      {"layer.1.DenseReluDense.wi_0.", "ffn.gate.0."},  // the branch through GELU
                      {"layer.1.DenseReluDense.wi_1.", "ffn.fc1."},
                      {"layer.1.DenseReluDense.wo.", "ffn.fc2."}};
const Rows kTextRest{{"shared.", "token_embedding."}, {"encoder.final_layer_norm.", "norm."}};

const Rows kResidual{{"norm1.", "residual.0."},       {"conv1.", "residual.2."},
                     {"norm2.", "residual.3."},       {"conv2.", "residual.6."},
                     {"conv_shortcut.", "shortcut."}, {"", ""}};  // resampling keeps its names

std::string rename(const std::string& name, const Rows& rows) {
  for (const Row& row : rows)
    if (name.starts_with(row.ours)) return row.wan + name.substr(row.ours.size());
  EXPECT(false);
}

/// Names of a stack of `count` blocks, "BEFORE{i}.rest", and of what lies outside.
template <class Shapes>
TensorNames names_of_stack(const Shapes& shapes, const std::string& before, const Rows& block,
                           const Rows& rest) {
  TensorNames names;
  for (const auto& [name, shape] : shapes) {
    if (!name.starts_with(before)) {
      names.add(name, rename(name, rest));
      continue;
    }
    const size_t end = name.find('.', before.size()) + 1;  // behind the block's number
    names.add(name,
              "blocks." + name.substr(before.size(), end - before.size()) + rename(name.substr(end), block));
  }
  return names;
}

/// Where the modules of encoder and decoder are in Wan's file. Its decoder counts a level's residual blocks
/// and the resampling behind them in one row; diffusers counts by level.
Rows vae_modules(const VaeConfig& config) {
  Rows rows{{"quant_conv.", "conv1."}, {"post_quant_conv.", "conv2."}};
  for (const std::string half : {"encoder.", "decoder."}) {
    rows.push_back({half + "conv_in.", half + "conv1."});
    rows.push_back({half + "norm_out.", half + "head.0."});
    rows.push_back({half + "conv_out.", half + "head.2."});
    rows.push_back({half + "mid_block.resnets.0.", half + "middle.0."});
    rows.push_back({half + "mid_block.attentions.0.", half + "middle.1."});
    rows.push_back({half + "mid_block.resnets.1.", half + "middle.2."});
  }
  rows.push_back({"encoder.down_blocks.", "encoder.downsamples."});
  const int64_t residuals = config.num_res_blocks + 1;
  for (size_t level = 0; level < config.dim_mult.size(); ++level) {
    const int64_t first = static_cast<int64_t>(level) * (residuals + 1);
    for (int64_t r = 0; r < residuals; ++r)
      rows.push_back({fmt::format("decoder.up_blocks.{}.resnets.{}.", level, r),
                      fmt::format("decoder.upsamples.{}.", first + r)});
    rows.push_back({fmt::format("decoder.up_blocks.{}.upsamplers.0.", level),
                    fmt::format("decoder.upsamples.{}.", first + residuals)});
  }
  return rows;
}

/// "encoder.down_blocks.3.conv1.weight": where the module's own name ends and its tensors' begin.
size_t end_of_module(const std::string& name) {
  for (const std::string number : {".resnets.", ".down_blocks."})
    if (const size_t at = name.find(number); at != std::string::npos)
      return name.find('.', at + number.size()) + 1;
  return std::string::npos;
}

}  // namespace

void TensorNames::add(const std::string& ours, const std::string& wan) {
  EXPECT(to_wan_.emplace(ours, wan).second);
  EXPECT(to_ours_.emplace(wan, ours).second);
}

TensorNames transformer_names(const TransformerConfig& config) {
  return names_of_stack(transformer_parameter_shapes(config), "blocks.", kTransformerBlock, kTransformerRest);
}

TensorNames text_encoder_names(const TextEncoderConfig& config) {
  return names_of_stack(text_encoder_parameter_shapes(config), "encoder.block.", kTextBlock, kTextRest);
}

TensorNames vae_names(const VaeConfig& config) {
  const Rows modules = vae_modules(config);
  TensorNames names;
  for (const auto& [name, shape] : vae_parameter_shapes(config)) {
    const size_t end = std::min(end_of_module(name), name.size());
    const std::string tensor = name.substr(end);
    names.add(name, rename(name.substr(0, end), modules) + (tensor.empty() ? "" : rename(tensor, kResidual)));
  }
  return names;
}

}  // namespace surgery
