#include "wan/tensor_names.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "wan/parameter_check.h"

namespace surgery {
namespace {

TransformerConfig config_14b() {
  TransformerConfig config;
  config.num_layers = 40;
  config.num_attention_heads = 40;
  config.ffn_dim = 13824;
  return config;
}

VaeConfig tiny_vae() {
  VaeConfig config;
  config.base_dim = 8;
  config.num_res_blocks = 1;
  return config;
}

int64_t elements(const ParameterShapes& shapes) {
  int64_t sum = 0;
  for (const auto& [name, shape] : shapes)
    sum += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  return sum;
}

/// Every tensor has one name in each layout, and none is left over.
void expect_bijection(const TensorNames& names, const ParameterShapes& shapes) {
  ASSERT_EQ(names.to_wan().size(), shapes.size());
  ASSERT_EQ(names.to_ours().size(), shapes.size());
  for (const auto& [ours, shape] : shapes) {
    ASSERT_TRUE(names.to_wan().contains(ours)) << ours;
    EXPECT_EQ(names.to_ours().at(names.to_wan().at(ours)), ours);
  }
}

TEST(TensorNames, AreABijectionAtTheReleasedSizes) {
  const TransformerConfig small;
  for (const auto& [config, tensors, parameters] :
       {std::tuple(small, size_t{825}, int64_t{1'418'996'800}), {config_14b(), 1095, 14'288'491'584}}) {
    const auto shapes = transformer_parameter_shapes(config);
    EXPECT_EQ(shapes.size(), tensors);
    EXPECT_EQ(elements(shapes), parameters);
    expect_bijection(transformer_names(config), shapes);
  }
  const TextEncoderConfig xxl;
  EXPECT_EQ(text_encoder_parameter_shapes(xxl).size(), 242u);
  EXPECT_EQ(elements(text_encoder_parameter_shapes(xxl)), 5'680'910'336);
  expect_bijection(text_encoder_names(xxl), text_encoder_parameter_shapes(xxl));
  for (const VaeConfig& config : {VaeConfig(), tiny_vae()})
    expect_bijection(vae_names(config), vae_parameter_shapes(config));
  EXPECT_EQ(vae_parameter_shapes(VaeConfig()).size(), 194u);
  EXPECT_EQ(elements(vae_parameter_shapes(VaeConfig())), 126'892'531);
}

TEST(TensorNames, TransformersBlocksHaveTheNamesOfWansCode) {
  std::set<std::string> expected{"modulation", "norm3.weight", "norm3.bias"};
  for (const std::string attention : {"self_attn", "cross_attn"}) {
    for (const std::string projection : {".q", ".k", ".v", ".o"})
      for (const std::string kind : {".weight", ".bias"}) expected.insert(attention + projection + kind);
    expected.insert(attention + ".norm_q.weight");
    expected.insert(attention + ".norm_k.weight");
  }
  for (const std::string linear : {"ffn.0", "ffn.2"})
    for (const std::string kind : {".weight", ".bias"}) expected.insert(linear + kind);
  ASSERT_EQ(expected.size(), 27u);
  const TensorNames names = transformer_names({});
  for (const int64_t block : {0, 7, 29}) {
    const std::string prefix = fmt::format("blocks.{}.", block);
    std::set<std::string> found;
    for (const auto& [wan, ours] : names.to_ours())
      if (wan.starts_with(prefix)) {
        EXPECT_TRUE(ours.starts_with(prefix)) << ours;
        found.insert(wan.substr(prefix.size()));
      }
    EXPECT_EQ(found, expected);
  }
}

TEST(TensorNames, TrapsOfTheTransformer) {
  const TensorNames names = transformer_names({});
  const auto pair = [&](const std::string& ours, const std::string& wan) {
    EXPECT_EQ(names.to_wan().at(ours), wan);
    EXPECT_EQ(names.to_ours().at(wan), ours);
  };
  pair("scale_shift_table", "head.modulation");
  pair("blocks.3.scale_shift_table", "blocks.3.modulation");
  pair("blocks.3.norm2.weight", "blocks.3.norm3.weight");  // diffusers' norm3 and Wan's norm2 own no tensor
  pair("blocks.3.attn1.to_out.0.bias", "blocks.3.self_attn.o.bias");
  pair("blocks.3.ffn.net.0.proj.weight", "blocks.3.ffn.0.weight");
  pair("blocks.3.ffn.net.2.weight", "blocks.3.ffn.2.weight");
  pair("condition_embedder.time_proj.weight", "time_projection.1.weight");
  pair("condition_embedder.text_embedder.linear_2.bias", "text_embedding.2.bias");
  pair("condition_embedder.time_embedder.linear_1.bias", "time_embedding.0.bias");
  pair("proj_out.weight", "head.head.weight");
  pair("patch_embedding.weight", "patch_embedding.weight");
}

TEST(TensorNames, FeatureMapsOfHybridBlocksGoAlong) {
  TransformerConfig config;
  config.hybrid = HybridSettings{};
  config.hybrid->rates.assign(30, Rate::full());
  config.hybrid->rates[7] = Rate::every(4);
  const TensorNames names = transformer_names(config);
  expect_bijection(names, transformer_parameter_shapes(config));
  EXPECT_EQ(names.to_wan().at("blocks.7.attn1.phi_k.1.bias"), "blocks.7.self_attn.phi_k.1.bias");
}

TEST(TensorNames, BranchesOfTheTextEncodersFeedForwardAreNotSwapped) {
  const TensorNames names = text_encoder_names({});
  EXPECT_EQ(names.to_wan().at("encoder.block.5.layer.1.DenseReluDense.wi_0.weight"),
            "blocks.5.ffn.gate.0.weight");
  EXPECT_EQ(names.to_wan().at("encoder.block.5.layer.1.DenseReluDense.wi_1.weight"),
            "blocks.5.ffn.fc1.weight");
  EXPECT_EQ(names.to_wan().at("encoder.block.5.layer.1.DenseReluDense.wo.weight"), "blocks.5.ffn.fc2.weight");
  EXPECT_EQ(names.to_wan().at("encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight"),
            "blocks.23.pos_embedding.embedding.weight");
  EXPECT_EQ(names.to_wan().at("encoder.block.0.layer.0.SelfAttention.q.weight"), "blocks.0.attn.q.weight");
  EXPECT_EQ(names.to_wan().at("encoder.block.0.layer.1.layer_norm.weight"), "blocks.0.norm2.weight");
  EXPECT_EQ(names.to_wan().at("shared.weight"), "token_embedding.weight");
  EXPECT_EQ(names.to_wan().at("encoder.final_layer_norm.weight"), "norm.weight");
}

TEST(TensorNames, ModulesOfTheVaeAreCountedAsWanDoes) {
  const TensorNames names = vae_names({});
  const auto pair = [&](const std::string& ours, const std::string& wan) {
    ASSERT_TRUE(names.to_wan().contains(ours)) << ours;
    EXPECT_EQ(names.to_wan().at(ours), wan);
  };
  pair("quant_conv.weight", "conv1.weight");
  pair("post_quant_conv.bias", "conv2.bias");
  pair("encoder.conv_in.weight", "encoder.conv1.weight");
  pair("encoder.down_blocks.3.conv_shortcut.weight", "encoder.downsamples.3.shortcut.weight");
  pair("encoder.down_blocks.5.time_conv.weight", "encoder.downsamples.5.time_conv.weight");
  pair("encoder.down_blocks.10.norm2.gamma", "encoder.downsamples.10.residual.3.gamma");
  pair("encoder.mid_block.attentions.0.to_qkv.weight", "encoder.middle.1.to_qkv.weight");
  pair("decoder.mid_block.resnets.1.conv2.bias", "decoder.middle.2.residual.6.bias");
  pair("decoder.up_blocks.0.upsamplers.0.resample.1.weight", "decoder.upsamples.3.resample.1.weight");
  pair("decoder.up_blocks.1.resnets.0.conv_shortcut.bias", "decoder.upsamples.4.shortcut.bias");
  pair("decoder.up_blocks.1.upsamplers.0.time_conv.bias", "decoder.upsamples.7.time_conv.bias");
  pair("decoder.up_blocks.3.resnets.2.conv1.weight", "decoder.upsamples.14.residual.2.weight");
  pair("decoder.norm_out.gamma", "decoder.head.0.gamma");
  pair("decoder.conv_out.weight", "decoder.head.2.weight");
}

}  // namespace
}  // namespace surgery
