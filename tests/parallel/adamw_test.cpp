#include "parallel/adamw.h"

#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>

#include "base/errors.h"
#include "base/random.h"

namespace surgery {
namespace {

std::vector<at::Tensor> weights(at::ScalarType type = at::kFloat) {
  return {random_normal({1, 1}, {37, 5}).to(type), random_normal({1, 2}, {11}).to(type)};
}
std::vector<at::Tensor> gradients(int step) {
  return {random_normal(RandomKey{2}.with(static_cast<uint64_t>(step)).with("a"), {37, 5}),
          random_normal(RandomKey{2}.with(static_cast<uint64_t>(step)).with("b"), {11})};
}
AdamW::Named named(const std::vector<at::Tensor>& tensors) {
  return {{"a", tensors[0]}, {"b", tensors[1]}};
}

AdamWOptions options() {
  AdamWOptions o;
  o.learning_rate = 3e-2;
  o.weight_decay = 0.1;
  return o;
}

TEST(AdamW, FollowsTorchsOptimizer) {
  const auto ours = weights();
  auto theirs = weights();
  for (auto& t : theirs) t.requires_grad_();
  AdamW optimizer(named(ours), options());
  torch::optim::AdamW reference(theirs, torch::optim::AdamWOptions(3e-2).weight_decay(0.1));
  for (int step = 0; step < 25; ++step) {
    const auto grads = gradients(step);
    optimizer.step(grads);
    for (size_t i = 0; i < 2; ++i) theirs[i].mutable_grad() = grads[i].clone();
    reference.step();
  }
  EXPECT_EQ(optimizer.steps(), 25);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(at::allclose(ours[i], theirs[i].detach(), 1e-5, 1e-6));
}

TEST(AdamW, WorksOnParametersThatNeedGradients) {
  auto ours = weights();
  for (auto& t : ours) t.requires_grad_();
  const at::Tensor before = ours[0].detach().clone();
  AdamW optimizer(named(ours), options());
  optimizer.step(gradients(0));
  EXPECT_FALSE(at::equal(before, ours[0].detach()));
  EXPECT_TRUE(ours[0].requires_grad() && ours[0].is_leaf());
}

TEST(AdamW, MastersKeepUpdatesThatBf16WouldLose) {
  const std::vector<at::Tensor> rounded{at::ones({1000}, at::kBFloat16), at::ones({3}, at::kBFloat16)};
  AdamWOptions o;
  o.learning_rate = 1e-4;  // far below bf16's step of 2^-8 at 1
  o.weight_decay = 0;
  AdamW optimizer(named(rounded), o);
  const std::vector<at::Tensor> grads{at::ones({1000}), at::ones({3})};
  for (int step = 0; step < 100; ++step) optimizer.step(grads);
  const at::Tensor master = optimizer.state().at("master.a");
  EXPECT_TRUE(at::allclose(master, at::full({1000}, 0.99f), 1e-4));  // 100 updates of the rate each
  EXPECT_TRUE(at::equal(rounded[0], master.to(at::kBFloat16)));
  EXPECT_LT(rounded[0][0].item<float>(), 1.0f);
}

TEST(AdamW, ASavedStateContinuesBitForBit) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto straight = weights(type);
    AdamW uninterrupted(named(straight), options());
    for (int step = 0; step < 12; ++step) uninterrupted.step(gradients(step));

    const auto first = weights(type);
    AdamW before(named(first), options());
    for (int step = 0; step < 6; ++step) before.step(gradients(step));
    std::map<std::string, at::Tensor> saved;
    for (const auto& [name, tensor] : before.state()) saved[name] = tensor.clone();
    std::vector<at::Tensor> second{first[0].clone(), first[1].clone()};
    AdamW after(named(second), options());
    after.load(saved);
    EXPECT_EQ(after.steps(), 6);
    for (int step = 6; step < 12; ++step) after.step(gradients(step));

    // A start with the weights alone is something else.
    std::vector<at::Tensor> cold{first[0].clone(), first[1].clone()};
    AdamW without_state(named(cold), options());
    for (int step = 6; step < 12; ++step) without_state.step(gradients(step));

    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(at::equal(straight[i], second[i]));
      EXPECT_FALSE(at::equal(straight[i], cold[i]));
    }
  }
}

TEST(AdamW, RefusesAForeignStateAndChangesNothing) {
  const auto ours = weights();
  AdamW optimizer(named(ours), options());
  optimizer.step(gradients(0));
  const at::Tensor kept = optimizer.state().at("exp_avg.a").clone();
  const auto refuses = [&](const auto& damage, const std::string& part) {
    auto state = optimizer.state();
    for (auto& [name, tensor] : state) tensor = at::zeros_like(tensor);
    damage(state);
    try {
      optimizer.load(state);
      ADD_FAILURE() << "accepted, expected: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_TRUE(at::equal(kept, optimizer.state().at("exp_avg.a")));
    EXPECT_EQ(optimizer.steps(), 1);
  };
  refuses([](auto& s) { s.erase("exp_avg_sq.b"); }, "lacks exp_avg_sq.b");
  refuses([](auto& s) { s.erase("step"); }, "lacks step");
  refuses([](auto& s) { s["exp_avg.b"] = at::zeros({12}); }, "exp_avg.b as Float 12 where Float 11");
  refuses([](auto& s) { s["exp_avg.b"] = at::zeros({11}, at::kDouble); }, "exp_avg.b as Double");
  refuses([](auto& s) { s["exp_avg.c"] = at::zeros({11}); }, "exp_avg.c");
  refuses([](auto& s) { s["master.a"] = at::zeros({37, 5}); }, "master.a");
}

TEST(ClipGradients, BoundsTheJointNormAndTellsIt) {
  std::vector<at::Tensor> grads{at::full({4}, 3.0f), at::full({2, 2}, 4.0f)};  // norm 10
  EXPECT_DOUBLE_EQ(clip_gradients(grads, 0).item<double>(), 10);
  EXPECT_DOUBLE_EQ(clip_gradients(grads, 20).item<double>(), 10);
  EXPECT_TRUE(at::equal(grads[0], at::full({4}, 3.0f)));  // not a bit changed
  EXPECT_DOUBLE_EQ(clip_gradients(grads, 1).item<double>(), 10);
  EXPECT_NEAR(clip_gradients(grads, 0).item<double>(), 1, 1e-6);
  EXPECT_TRUE(at::allclose(grads[1], at::full({2, 2}, 0.4f)));
}

TEST(ClipGradients, MatchesTorchOnManyTensors) {
  std::vector<at::Tensor> ours, theirs;
  for (uint64_t i = 0; i < 20; ++i) {
    ours.push_back(random_normal({8, i}, {50, 7}));
    theirs.push_back(at::zeros({50, 7}).requires_grad_());
    theirs.back().mutable_grad() = ours.back().clone();
  }
  const double norm = torch::nn::utils::clip_grad_norm_(theirs, 1.0);
  EXPECT_NEAR(clip_gradients(ours, 1).item<double>(), norm, 1e-5 * norm);
  for (size_t i = 0; i < 20; ++i) EXPECT_TRUE(at::allclose(ours[i], theirs[i].grad()));
}

TEST(ClipGradients, AddsUpTheWholeOfALargeBucket) {
  const int64_t size = (1 << 23) + 5;
  std::vector<at::Tensor> grads{at::full({size}, 1.1F)};
  grads[0][size - 1] = 100;
  const double norm = std::sqrt(double(1.1F) * 1.1F * (double(size) - 1) + 1e4);
  EXPECT_NEAR(clip_gradients(grads, 1).item<double>(), norm, 1e-6 * norm);  // a sum in fp32 misses by 7e-4
  EXPECT_NEAR(grads[0][size - 1].item<double>(), 100 / norm, 1e-6);
}

TEST(ClipGradients, TellsOfGradientsThatAreNotFinite) {
  std::vector<at::Tensor> grads{at::ones({3}), at::ones({3})};
  grads[1][2] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(clip_gradients(grads, 1).item<double>()));
}

}  // namespace
}  // namespace surgery
