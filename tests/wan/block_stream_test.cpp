// Models whose blocks stay in their file compute what those in memory do, to the bit.
#include "wan/block_stream.h"

#include <gtest/gtest.h>

#include "../storage/test_folder.h"
#include "base/errors.h"
#include "wan/initial_weights.h"

namespace surgery {
namespace {

TransformerConfig small() {
  TransformerConfig config;
  config.num_layers = 4;
  config.num_attention_heads = 3;
  config.attention_head_dim = 20;
  config.ffn_dim = 100;
  config.freq_dim = 32;
  config.text_dim = 24;
  return config;
}

std::filesystem::path save_random(const std::filesystem::path& folder, const TransformerConfig& config,
                                  at::ScalarType dtype) {
  save_transformer(config, initial_transformer(config, {5, 1}, InitialHead::drawn), folder / "transformer",
                   dtype);
  return folder;
}

at::Tensor forward(const Transformer& model, const AttentionFunction* attention = nullptr,
                   int64_t last_block = -1) {
  const at::NoGradGuard no_gradient;
  return model.forward(random_normal({3, 1}, {2, 16, 3, 4, 6}), at::tensor({900.f, 100.f}),
                       random_normal({3, 2}, {2, 5, 24}), attention, last_block);
}

Transformer loaded(const std::filesystem::path& folder, bool streamed) {
  Transformer model = Transformer::load(folder);
  if (streamed) model.stream();
  model.to(at::kCPU, at::kFloat);
  return model;
}

std::pair<FeatureMap, FeatureMap> some_phi(const TransformerConfig& config, int64_t block) {
  const RandomKey key = RandomKey{7, 0}.with(static_cast<uint64_t>(block));
  return {FeatureMap::initial(config.feature_map(), key.with("q")),
          FeatureMap::initial(config.feature_map(), key.with("k"))};
}

TEST(BlockStream, AForwardHasTheSameBitsWhateverTheFileHolds) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const TestFolder folder;
    save_random(folder.path(), small(), dtype);
    const Transformer kept = loaded(folder.path(), false), streamed = loaded(folder.path(), true);
    EXPECT_TRUE(streamed.streams());
    EXPECT_EQ(streamed.dtype(), at::kFloat);
    const at::Tensor expected = forward(kept);
    EXPECT_GT(expected.std().item<double>(), 0.1) << "an output that depends on the weights";
    for (int repeat = 0; repeat < 2; ++repeat) EXPECT_TRUE(at::equal(forward(streamed), expected));
    EXPECT_EQ(streamed.parameters().at("blocks.1.attn1.to_q.weight").scalar_type(), dtype) << "as mapped";
  }
}

/// Where it rounds goes with the model, however its blocks are held.
TEST(BlockStream, AForwardRoundsAsTheOriginalProgramToo) {
  const TestFolder folder;
  save_random(folder.path(), small(), at::kFloat);
  Transformer kept = loaded(folder.path(), false), streamed = loaded(folder.path(), true);
  for (Transformer* model : {&kept, &streamed}) model->to(at::kCPU, {at::kBFloat16, Rounding::wan});
  const at::Tensor expected = forward(kept);
  EXPECT_EQ(expected.scalar_type(), at::kFloat) << "of a head in fp32";
  EXPECT_TRUE(at::equal(forward(streamed), expected));
  EXPECT_TRUE(at::equal(forward(kept.clone()), expected));
  streamed.keep_blocks();
  EXPECT_TRUE(at::equal(forward(streamed), expected));
  kept.to(at::kCPU, at::kBFloat16);
  EXPECT_EQ(forward(kept).scalar_type(), at::kBFloat16) << "as diffusers";
}

TEST(BlockStream, AReplayMayEndAtAnyBlock) {
  const TestFolder folder;
  save_random(folder.path(), small(), at::kBFloat16);
  const Transformer kept = loaded(folder.path(), false), streamed = loaded(folder.path(), true);
  for (const int64_t last : {2, 0, 3, 1}) {
    std::vector<at::Tensor> seen;
    const AttentionFunction attention = [&](int64_t, const at::Tensor& q, const at::Tensor& k,
                                            const at::Tensor& v) {
      seen.push_back(q);
      return at::scaled_dot_product_attention(q, k, v);
    };
    forward(kept, &attention, last);
    const std::vector<at::Tensor> expected = std::exchange(seen, {});
    forward(streamed, &attention, last);
    ASSERT_EQ(seen.size(), static_cast<size_t>(last) + 1);
    for (size_t block = 0; block < seen.size(); ++block) EXPECT_TRUE(at::equal(seen[block], expected[block]));
  }
}

TEST(BlockStream, AStudentSharesTheFileAndHasFeatureMapsOfItsOwn) {
  const TestFolder folder;
  save_random(folder.path(), small(), at::kBFloat16);
  HybridSettings settings;
  settings.rates = {Rate::full(), Rate::every(2), Rate::linear(), Rate::full()};
  std::vector<at::Tensor> outputs;
  for (const bool streamed : {false, true}) {
    const Transformer teacher = loaded(folder.path(), streamed);
    const at::Tensor before = forward(teacher);
    Transformer student = teacher.clone();
    student.make_hybrid(settings, [&](int64_t block) { return some_phi(student.config(), block); });
    student.to(at::kCPU, at::kFloat);
    EXPECT_EQ(student.streams(), streamed);
    outputs.push_back(forward(student));
    EXPECT_FALSE(at::equal(outputs.back(), before));
    EXPECT_TRUE(at::equal(forward(teacher), before));
    // What trains, or is overwritten, is held whole.
    student.keep_blocks();
    EXPECT_FALSE(student.streams());
    EXPECT_TRUE(at::equal(forward(student), outputs.back()));
    student.set_requires_grad(true);
    student.save(folder.path() / (streamed ? "b" : "a"), at::kBFloat16);
    // A hybrid file streams its softmax weights and keeps its feature maps.
    EXPECT_TRUE(at::equal(forward(loaded(folder.path() / (streamed ? "b" : "a"), streamed)),
                          forward(loaded(folder.path() / (streamed ? "b" : "a"), false))));
  }
  EXPECT_TRUE(at::equal(outputs[0], outputs[1]));
}

TEST(BlockStream, WhatStreamsCannotLearn) {
  const TestFolder folder;
  Transformer model = loaded(save_random(folder.path(), small(), at::kFloat), true);
  EXPECT_THROW(model.set_requires_grad(true), Error);
}

TEST(BlockStream, TheTextEncoderStreamsToTheSameBits) {
  TextEncoderConfig config;
  config.vocab_size = 50, config.d_model = 24, config.d_kv = 6, config.d_ff = 40, config.num_layers = 3,
  config.num_heads = 4;
  const at::Tensor ids = at::tensor(std::vector<int64_t>{3, 49, 7, 7, 1}).unsqueeze(0);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const TestFolder folder;
    save_text_encoder(config, initial_text_encoder(config, {5, 2}), folder.path() / "text_encoder", dtype);
    TextEncoder kept = TextEncoder::load(folder.path()), streamed = TextEncoder::load(folder.path());
    streamed.stream();
    kept.to(at::kCPU, at::kFloat), streamed.to(at::kCPU, at::kFloat);
    const at::Tensor expected = kept.forward(ids, at::ones_like(ids));
    for (int repeat = 0; repeat < 2; ++repeat)
      EXPECT_TRUE(at::equal(streamed.forward(ids, at::ones_like(ids)), expected));
  }
}

TEST(BlockStream, PagesAreLetGoOfMappedTensorsAlone) {
  const TestFolder folder;
  const at::Tensor values = random_normal({1, 1}, {1 << 16});  // 64 pages
  save_tensors(folder.path() / "a.safetensors", {{"a", values}});
  const at::Tensor mapped = TensorStore::open_file(folder.path() / "a.safetensors").get("a");
  at::Tensor in_memory = values.clone();
  for (const at::Tensor& tensor : {mapped, in_memory}) {
    want_pages(tensor);
    release_pages(tensor);
    EXPECT_TRUE(at::equal(tensor, values));
  }
  // That they are let go shows in a change of the private copy, which the file does not have.
  mapped.zero_();
  in_memory.zero_();
  release_pages(mapped);
  release_pages(in_memory);
  EXPECT_TRUE(at::equal(mapped.slice(0, 4096, 8192), values.slice(0, 4096, 8192)));
  EXPECT_EQ(in_memory.abs().sum().item<double>(), 0);
}

}  // namespace
}  // namespace surgery
