#include "wan/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <numeric>

#include "../storage/test_folder.h"
#include "attention/hybrid_reference.h"
#include "wan/embeddings.h"
#include "wan/generate.h"

namespace surgery {
namespace {

TransformerConfig tiny() {
  TransformerConfig config;
  config.num_layers = 3;
  config.num_attention_heads = 2;
  config.attention_head_dim = 16;
  config.ffn_dim = 48;
  config.freq_dim = 32;
  config.text_dim = 24;
  return config;
}

/// A random model whose head is not zero, so that its answer depends on everything.
Transformer awake(const TransformerConfig& config, uint64_t seed = 1) {
  Transformer model = Transformer::random(config, {seed, 1});
  for (auto& [name, tensor] : model.parameters())
    if (name == "proj_out.weight" || name.ends_with(".bias"))
      tensor = random_normal(RandomKey{seed, 2}.with(name), tensor.sizes()) * 0.2;
  return model;
}

struct Inputs {
  at::Tensor latents = random_normal({3, 1}, {2, 16, 3, 4, 6});
  at::Tensor timestep = at::tensor({900.f, 100.f});
  at::Tensor text = random_normal({3, 2}, {2, 5, 24});
};

std::pair<int64_t, int64_t> size_of(const TransformerConfig& config) {
  const auto shapes = transformer_parameter_shapes(config);
  int64_t elements = 0;
  for (const auto& [name, shape] : shapes)
    elements += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  return {elements, static_cast<int64_t>(shapes.size())};
}

TEST(TransformerParameters, CountsOfTheReleasedModels) {
  TransformerConfig small;
  EXPECT_EQ(size_of(small), std::pair(int64_t{1'418'996'800}, int64_t{825}));
  TransformerConfig large;
  large.num_layers = 40;
  large.num_attention_heads = 40;
  large.ffn_dim = 13824;
  EXPECT_EQ(size_of(large), std::pair(int64_t{14'288'491'584}, int64_t{1095}));
}

TEST(TransformerParameters, HybridBlocksAddPhi) {
  TransformerConfig config;
  config.hybrid = HybridSettings{};
  config.hybrid->rates.assign(30, Rate::full());
  config.hybrid->rates[7] = Rate::every(4);
  config.hybrid->rates[8] = Rate::linear();
  const auto shapes = transformer_parameter_shapes(config);
  EXPECT_EQ(shapes.size(), 825u + 2 * 2 * 2 * 2);
  EXPECT_EQ(shapes.at("blocks.7.attn1.phi_q.0.weight"), (std::vector<int64_t>{12, 256, 128}));
  EXPECT_EQ(shapes.at("blocks.8.attn1.phi_k.1.weight"), (std::vector<int64_t>{12, 256, 256}));
  EXPECT_EQ(shapes.at("blocks.8.attn1.phi_k.1.bias"), (std::vector<int64_t>{12, 256}));
  EXPECT_FALSE(shapes.contains("blocks.6.attn1.phi_q.0.weight"));
}

TEST(TransformerParameters, AllFaultsAreToldTogether) {
  const auto config = tiny();
  TensorMap parameters = Transformer::random(config, {1, 1}).parameters();
  parameters.erase("proj_out.bias");
  parameters["scale_shift_table"] = at::zeros({2, 32});
  parameters["blocks.0.norm2.weight"] = at::zeros({32}, at::kLong);
  parameters["img_emb"] = at::zeros({1});
  for (const char* part : {"proj_out.bias missing", "scale_shift_table is [2, 32] instead of [1, 2, 32]",
                           "blocks.0.norm2.weight is not of a floating-point type", "img_emb unexpected"})
    expect_error(ExitCode::data, part, [&] { Transformer(config, parameters); });
}

TEST(TransformerConfig, RoundTripsThroughJson) {
  auto config = tiny();
  config.cross_attn_norm = false;
  config.eps = 1e-5;
  config.hybrid = HybridSettings{};
  config.hybrid->rates = {Rate::full(), Rate::every(8), Rate::linear()};
  config.hybrid->phi_degree = 3;
  config.hybrid->phi_output_activation = OutputActivation::elu1;
  config.hybrid->stabilizer = Stabilizer::lse;
  const auto read = TransformerConfig::from_json(config.to_json(), "config.json");
  EXPECT_EQ(read.to_json(), config.to_json());
  EXPECT_EQ(read.hybrid->rates, config.hybrid->rates);
  EXPECT_EQ(read.feature_map().features(), 48);
}

TEST(TransformerConfig, FaultsOfTheHybridPartAreToldTogether) {
  auto config = tiny();
  config.hybrid = HybridSettings{};
  config.hybrid->rates.assign(3, Rate::every(2));
  auto json = nlohmann::json::parse(config.to_json());
  json["hybrid"]["rates"] = {2, "quadratic", 0.5};
  json["hybrid"]["stabilizer"] = "mean";
  json["hybrid"]["phi_degree"] = 0;
  json["hybrid"]["phi_hidden_activation"] = "tanh";
  for (const char* part : {"quadratic", "0.5", "stabilizer", "phi_degree", "phi_hidden_activation"})
    expect_error(ExitCode::data, part, [&] { TransformerConfig::from_json(json.dump(), "c.json"); });
  json["hybrid"]["rates"] = {2, 2};
  expect_error(ExitCode::data, "one rate for each of the 3 blocks",
               [&] { TransformerConfig::from_json(json.dump(), "c.json"); });
}

TEST(TimeEmbedding, HasCosinesFirst) {
  const auto embedding = timestep_sinusoid(at::tensor({999.f}), 256)[0];
  const std::vector<std::pair<int64_t, double>> known{{0, 0.99965},     {1, 0.963782},    {2, -0.398992},
                                                      {127, 0.994243},  {128, -0.026461}, {129, -0.26669},
                                                      {130, -0.916955}, {255, 0.107147}};
  for (const auto& [index, value] : known) EXPECT_NEAR(embedding[index].item<double>(), value, 1e-4) << index;
}

TEST(Patches, InputHasChannelsSlowestAndOutputFastest) {
  const auto video = at::arange(2 * 3 * 4 * 6, at::kFloat).view({1, 2, 3, 4, 6});
  const auto tokens = patchify(video, {1, 2, 2});
  ASSERT_EQ(tokens.sizes(), (std::vector<int64_t>{1, 18, 8}));
  // Token (frame 1, row 1, column 2): channel 1, second row, first column of the patch.
  EXPECT_EQ(tokens[0][1 * 6 + 1 * 3 + 2][1 * 4 + 2].item<float>(), video[0][1][1][3][4].item<float>());
  const auto back =
      unpatchify(tokens.view({1, 18, 2, 4}).transpose(2, 3).reshape({1, 18, 8}), {3, 2, 3}, {1, 2, 2});
  EXPECT_TRUE(at::equal(back, video));
}

TEST(Transformer, StartsWithAZeroVelocity) {
  const Inputs in;
  const auto velocity = Transformer::random(tiny(), {1, 1}).forward(in.latents, in.timestep, in.text);
  EXPECT_EQ(velocity.sizes(), in.latents.sizes());
  EXPECT_EQ(velocity.abs().max().item<double>(), 0);
}

TEST(Transformer, SamplesOfABatchDoNotMeet) {
  // One sample takes another way through the norms than several do.
  const Inputs in;
  const auto model = awake(tiny());
  const auto both = model.forward(in.latents, in.timestep, in.text);
  for (int64_t b = 0; b < 2; ++b) {
    const auto alone = model.forward(in.latents.slice(0, b, b + 1), in.timestep.slice(0, b, b + 1),
                                     in.text.slice(0, b, b + 1));
    EXPECT_TRUE(at::allclose(alone[0], both[b], 1e-4, 1e-5)) << b;
  }
}

/// The gradients of all parameters, by name.
std::map<std::string, at::Tensor> gradients_of(Transformer& model) {
  const Inputs in;
  model.set_requires_grad(true);
  for (auto& [name, tensor] : model.parameters()) tensor.mutable_grad() = at::Tensor();
  model.forward(in.latents, in.timestep, in.text).square().mean().backward();
  std::map<std::string, at::Tensor> result;
  for (const auto& [name, tensor] : model.parameters()) result[name] = tensor.grad().clone();
  return result;
}

TEST(Transformer, RecomputedBlocksGiveTheSameGradients) {
  auto model = awake(tiny());
  const auto expected = gradients_of(model);
  for (const int64_t every : {1, 2}) {
    model.recompute_every = every;
    for (const auto& [name, gradient] : gradients_of(model)) {
      // The text goes into every block twice: its gradients are summed in another order.
      const bool shared = name.starts_with("condition_embedder");
      EXPECT_TRUE(at::allclose(gradient, expected.at(name), 1e-5, shared ? 1e-8 : 0)) << name;
      EXPECT_TRUE(shared || at::equal(gradient, expected.at(name))) << name;
    }
  }
  // Even where nothing in front of the block learns, as with only some parameters trained.
  model.set_requires_grad(false);
  const std::string last = "blocks.2.ffn.net.2.weight";
  model.parameters().at(last).requires_grad_(true).mutable_grad() = at::Tensor();
  const Inputs in;
  model.recompute_every = 1;
  model.forward(in.latents, in.timestep, in.text).square().mean().backward();
  EXPECT_TRUE(at::equal(model.parameters().at(last).grad(), expected.at(last)));
}

TEST(Transformer, HooksSurroundEveryGroup) {
  auto model = awake(tiny());
  for (const int64_t every : {0, 2}) {
    std::string told;
    const auto tell = [&told](const char* what) {
      return [&told, what](int64_t group) { told += fmt::format("{}{} ", what, group); };
    };
    model.recompute_every = every;
    model.hooks = std::make_shared<GroupHooks>(GroupHooks{tell("f"), tell("a"), tell("b")});
    gradients_of(model);
    EXPECT_EQ(told, "f3 f0 a0 f1 a1 f2 a2 b2 b1 b0 ") << every;
    told.clear();
    const Inputs in;
    const at::NoGradGuard no_gradient;
    model.forward(in.latents, in.timestep, in.text);
    EXPECT_EQ(told, "f3 f0 a0 f1 a1 f2 a2 ") << "a forward without gradient needs the parameters too";
  }
}

TEST(Transformer, GradientReachesEveryParameterAndIsTheFunctionsSlope) {
  const Inputs in;
  for (const int64_t batch : {1, 2}) {
    auto model = awake(tiny());
    // Double precision, for the differences; the RoPE's rounding is the same on both sides.
    model.to(at::kCPU, at::kDouble);
    const auto groups = model.parameter_groups();
    ASSERT_EQ(groups.size(), 4u);
    const auto loss = [&] {
      return model
          .forward(in.latents.slice(0, 0, batch), in.timestep.slice(0, 0, batch), in.text.slice(0, 0, batch))
          .square()
          .mean();
    };
    loss().backward();
    size_t seen = 0;
    for (const auto& group : groups) seen += group.size();
    EXPECT_EQ(seen, model.parameters().size());
    for (auto& [name, tensor] : model.parameters()) {
      ASSERT_TRUE(tensor.grad().defined()) << name;
      const auto direction = random_normal(RandomKey{5, 5}.with(name), tensor.sizes()).to(at::kDouble);
      const double slope = (tensor.grad() * direction).sum().item<double>(), step = 1e-4;
      const at::NoGradGuard no_gradient;
      tensor.add_(direction, step);
      const double above = loss().item<double>();
      tensor.sub_(direction, 2 * step);
      const double below = loss().item<double>();
      tensor.add_(direction, step);
      EXPECT_NEAR((above - below) / (2 * step), slope, 1e-4 + 2e-3 * std::abs(slope)) << name;
    }
  }
}

TEST(Transformer, AGivenAttentionReplacesEveryBlocks) {
  const Inputs in;
  const auto model = awake(tiny());
  std::vector<int64_t> blocks;
  const AttentionFunction softmax = [&](int64_t block, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v) {
    EXPECT_EQ(q.sizes(), (std::vector<int64_t>{2, 2, 18, 16}));
    blocks.push_back(block);
    return at::matmul((at::matmul(q, k.transpose(2, 3)) / 4).softmax(3), v);
  };
  const auto ours = model.forward(in.latents, in.timestep, in.text, &softmax);
  EXPECT_EQ(blocks, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_TRUE(at::allclose(ours, model.forward(in.latents, in.timestep, in.text), 1e-4, 1e-5));

  blocks.clear();
  EXPECT_FALSE(model.forward(in.latents, in.timestep, in.text, &softmax, 1).defined());
  EXPECT_EQ(blocks, (std::vector<int64_t>{0, 1}));
}

TEST(Transformer, HybridBlocksUseTheirRate) {
  const Inputs in;
  auto model = awake(tiny());
  const auto before = model.forward(in.latents, in.timestep, in.text);
  HybridSettings settings;
  settings.rates = {Rate::full(), Rate::every(4), Rate::linear()};
  const auto config = [&] {
    auto hybrid = tiny();
    hybrid.hybrid = settings;
    return hybrid.feature_map();
  }();
  std::vector<int64_t> asked;
  model.make_hybrid(settings, [&](int64_t block) {
    asked.push_back(block);
    const RandomKey key = RandomKey{9, 9}.with(static_cast<uint64_t>(block));
    return std::pair(FeatureMap::initial(config, key.with("q")), FeatureMap::initial(config, key.with("k")));
  });
  EXPECT_EQ(asked, (std::vector<int64_t>{1, 2}));
  const auto after = model.forward(in.latents, in.timestep, in.text);
  EXPECT_GT((after - before).abs().max().item<double>(), 1e-4);
  const AttentionFunction reference = [&](int64_t block, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v) {
    const Rate rate = settings.rates[static_cast<size_t>(block)];
    if (rate.is_full()) return at::scaled_dot_product_attention(q, k, v);
    return test::hybrid_attention_reference(q, k, v, model.phi_q(block), model.phi_k(block), rate,
                                            settings.stabilizer);
  };
  EXPECT_TRUE(at::allclose(model.forward(in.latents, in.timestep, in.text, &reference), after, 1e-4, 1e-5));
  settings.rates = {Rate::full()};
  expect_error(ExitCode::data, "1 rates for 3 blocks", [&] {
    model.make_hybrid(settings, [](int64_t) { return std::pair<FeatureMap, FeatureMap>{}; });
  });
}

TEST(Transformer, SavesAndLoadsItself) {
  const TestFolder folder;
  const Inputs in;
  auto config = tiny();
  config.hybrid = HybridSettings{};
  config.hybrid->rates = {Rate::full(), Rate::every(4), Rate::linear()};
  const auto model = awake(config);
  model.save(folder.path() / "transformer", at::kFloat);
  for (const auto& where : {folder.path(), folder.path() / "transformer"}) {
    const auto read = Transformer::load(where);
    EXPECT_EQ(read.config().to_json(), model.config().to_json());
    EXPECT_TRUE(at::equal(read.forward(in.latents, in.timestep, in.text),
                          model.forward(in.latents, in.timestep, in.text)));
  }
  model.save(folder.path() / "small", at::kBFloat16);
  const auto small = Transformer::load(folder.path() / "small");
  for (const auto& [name, tensor] : small.parameters())
    EXPECT_EQ(tensor.scalar_type(), kept_in_fp32(name) ? at::kFloat : at::kBFloat16) << name;
}

TEST(Transformer, ConversionsAndClonesOwnTheirMemory) {
  auto model = awake(tiny());
  model.set_requires_grad(true);
  auto copy = model.clone();
  auto same = model;
  same.to(at::kCPU, at::kFloat);
  for (const auto& [name, tensor] : model.parameters()) {
    EXPECT_TRUE(copy.parameters().at(name).requires_grad());
    EXPECT_NE(copy.parameters().at(name).data_ptr(), tensor.data_ptr()) << name;
    EXPECT_NE(same.parameters().at(name).data_ptr(), tensor.data_ptr()) << name;
    EXPECT_TRUE(at::equal(same.parameters().at(name), tensor)) << name;
  }
}

TEST(Transformer, WhatIsNotTrainedIsTheTeachers) {
  const Transformer teacher = awake(tiny());
  const auto trained = [](const std::string& name) { return name.ends_with("attn1.to_q.weight"); };
  const auto shared = [&](at::ScalarType dtype) {
    Transformer student = teacher.clone();
    student.set_requires_grad(false);
    student.stream();
    const TensorMap before =
        student.begin_training(at::kCPU, {dtype, Rounding::diffusers}, trained, teacher.parameters());
    size_t count = 0;
    for (const auto& [name, tensor] : student.parameters()) {
      EXPECT_EQ(tensor.requires_grad(), trained(name)) << name;
      const at::Tensor& theirs = teacher.parameters().at(name);
      if (trained(name)) {
        EXPECT_EQ(tensor.storage().nbytes(), 0u) << name;
        EXPECT_TRUE(at::equal(before.at(name), theirs)) << name;
      } else {
        EXPECT_TRUE(at::equal(tensor, theirs.to(tensor.scalar_type()))) << name;
        count += tensor.is_alias_of(theirs);
      }
    }
    return count;
  };
  const size_t all = teacher.parameters().size();
  EXPECT_EQ(shared(at::kFloat), all - 3);
  EXPECT_LT(shared(at::kBFloat16), all / 2) << "of another dtype it cannot be shared";
}

TEST(Transformer, RandomWeightsDependOnTheKeyOnly) {
  const auto a = Transformer::random(tiny(), {1, 1}), b = Transformer::random(tiny(), {1, 1}),
             c = Transformer::random(tiny(), {2, 1});
  for (const auto& [name, tensor] : a.parameters())
    EXPECT_TRUE(at::equal(tensor, b.parameters().at(name))) << name;
  EXPECT_FALSE(
      at::equal(a.parameters().at("patch_embedding.weight"), c.parameters().at("patch_embedding.weight")));
  // Xavier: variance 2 / (fan in + fan out).
  const auto& weight = a.parameters().at("blocks.0.ffn.net.0.proj.weight");
  EXPECT_NEAR(weight.var().item<double>(), 2.0 / (32 + 48), 2e-3);
}

TEST(Transformer, ItsTimestepIsNotRoundedToHalfPrecision) {
  // In bf16 998.39 is 1000, which is another noise level.
  const Inputs in;
  const auto exact = awake(tiny());
  const auto at_time = [&](const Transformer& model, float t) {
    return model.forward(in.latents.slice(0, 0, 1), at::tensor({t}), in.text.slice(0, 0, 1)).to(at::kFloat);
  };
  const double apart = (at_time(exact, 998.39f) - at_time(exact, 1000)).norm().item<double>();
  for (const auto rounding : {Rounding::diffusers, Rounding::wan}) {
    auto model = exact.clone();
    model.to(at::kCPU, Precision(at::kBFloat16, rounding));
    // Equal to the last bit, were it rounded on the way.
    EXPECT_GT((at_time(model, 998.39f) - at_time(model, 1000)).norm().item<double>(), 0.5 * apart);
    for (const auto type : {at::kBFloat16, at::kHalf})
      expect_error(ExitCode::data, "give fp32",
                   [&] { model.forward(in.latents, in.timestep.to(type), in.text); });
  }
}

TEST(Transformer, RefusesInputsOfAnotherShape) {
  const Inputs in;
  const auto model = awake(tiny());
  expect_error(ExitCode::data, "[batch, 16, frames",
               [&] { model.forward(in.latents[0], in.timestep, in.text); });
  expect_error(ExitCode::data, "multiples of the patch",
               [&] { model.forward(in.latents.slice(4, 0, 5), in.timestep, in.text); });
  expect_error(ExitCode::data, "timestep", [&] { model.forward(in.latents, in.timestep[0], in.text); });
  expect_error(ExitCode::data, "encoder_hidden_states",
               [&] { model.forward(in.latents, in.timestep, in.text.slice(2, 0, 8)); });
  auto config = tiny();
  config.rope_max_seq_len = 2;
  expect_error(ExitCode::data, "at most 2 patches",
               [&] { awake(config).forward(in.latents, in.timestep, in.text); });
}

TEST(Generate, ObservesEveryStepAndGuidesAwayFromTheNegativePrompt) {
  const Inputs in;
  const auto model = awake(tiny());
  const auto text = in.text.slice(0, 0, 1), negative = in.text.slice(0, 1, 2),
             noise = in.latents.slice(0, 0, 1);
  SamplingOptions options;
  options.steps = 3;
  options.kind = SamplerKind::euler;
  std::vector<SamplingStep> seen;
  const auto result = generate_latents(model, text, negative, options, noise, {},
                                       [&](const SamplingStep& step) { seen.push_back(step); });
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_TRUE(at::equal(seen[0].latents, noise));
  const Schedule schedule = make_schedule(3, options.shift);
  auto x = noise;
  const at::NoGradGuard no_gradient;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(seen[i].timestep, schedule.timesteps[i]);
    EXPECT_TRUE(at::allclose(seen[i].latents, x, 1e-4, 1e-5));
    const auto time = at::full({1}, schedule.timesteps[i]);
    const auto with = model.forward(x, time, text), without = model.forward(x, time, negative);
    EXPECT_TRUE(at::allclose(seen[i].conditional, with, 1e-3, 1e-4));
    EXPECT_TRUE(at::allclose(seen[i].unconditional, without, 1e-3, 1e-4));
    x = x + (without + 5 * (with - without)) * (schedule.sigmas[i + 1] - schedule.sigmas[i]);
  }
  EXPECT_TRUE(at::allclose(result, x, 1e-3, 1e-4));

  options.guidance = 1;
  seen.clear();
  generate_latents(model, text, {}, options, noise, {},
                   [&](const SamplingStep& step) { seen.push_back(step); });
  EXPECT_EQ(seen.at(0).text.size(0), 1);
  EXPECT_FALSE(seen.at(0).unconditional.defined());
}

TEST(Generate, TheModelGetsTheSchedulesTimestepsWhole) {
  const Inputs in;
  const auto text = in.text.slice(0, 0, 1), noise = in.latents.slice(0, 0, 1);
  SamplingOptions options;
  options.steps = 3;
  options.guidance = 1;
  options.kind = SamplerKind::euler;
  options.schedule = ScheduleKind::diffsynth;  // its timesteps are not whole numbers
  const Schedule schedule = make_schedule(3, options.shift, options.schedule);
  ASSERT_GT(schedule.timesteps[1] - std::floor(schedule.timesteps[1]), 0.1);
  for (const char* precision : {"fp32", "bf16-diffusers", "bf16-wan"}) {
    auto model = awake(tiny());
    model.to(at::kCPU, parse_precision(precision));
    generate_latents(model, text, {}, options, noise, {}, [&](const SamplingStep& step) {
      const auto time =
          at::full({1}, schedule.timesteps[static_cast<size_t>(step.step)], at::TensorOptions(at::kFloat));
      EXPECT_EQ(step.latents.scalar_type(), at::kFloat);
      EXPECT_TRUE(at::equal(step.conditional, model.forward(step.latents, time, text).to(at::kFloat)))
          << precision << " " << step.step;
    });
  }
}

TEST(Generate, RefusesBranchesOfDifferentLength) {
  const Inputs in;
  const auto model = awake(tiny());
  expect_error(ExitCode::data, "pad both to one length", [&] {
    generate_latents(model, in.text.slice(0, 0, 1), in.text.slice(0, 0, 1).slice(1, 0, 3), {},
                     in.latents.slice(0, 0, 1));
  });
  expect_error(ExitCode::data, "initial noise",
               [&] { generate_latents(model, in.text, in.text, {}, in.latents); });
}

}  // namespace
}  // namespace surgery
