#include <gtest/gtest.h>

#include <cmath>

#include "attention/hybrid_reference.h"
#include "attention/samples.h"

namespace surgery {
namespace {

using test::largest;
using test::largest_difference;
using test::random_sample;
using test::Sample;
using test::tensors;

using Attention = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, const FeatureMap&,
                                 const FeatureMap&, Rate, Stabilizer, MaxGradient);

struct Result {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

Result with_gradients(Attention attention, const Sample& sample, Rate rate, Stabilizer stabilizer,
                      MaxGradient max) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : tensors(sample)) leaves.push_back(x.detach().requires_grad_(true));
  FeatureMap phi_q{sample.phi_q.config, {}, {}}, phi_k{sample.phi_k.config, {}, {}};
  const size_t half = sample.phi_q.parameters().size();
  for (size_t i = 3; i < leaves.size(); ++i) {
    FeatureMap& phi = i - 3 < half ? phi_q : phi_k;
    ((i - 3) % 2 == 0 ? phi.weight : phi.bias).push_back(leaves[i]);
  }
  const at::Tensor y = attention(leaves[0], leaves[1], leaves[2], phi_q, phi_k, rate, stabilizer, max);
  const at::Tensor weights = random_normal(RandomKey{99, 1}, y.sizes()).to(y.scalar_type());
  const auto gradients = torch::autograd::grad({(y * weights).sum()}, leaves, {}, std::nullopt, false, true);
  return {y.detach(), gradients};
}

void expect_same_as_reference(const Sample& sample, Rate rate, Stabilizer stabilizer, MaxGradient max) {
  SCOPED_TRACE("rate " + rate.name() + ", stabilizer " + to_string(stabilizer) +
               (max == MaxGradient::through ? ", through" : ", constant"));
  const Result ours = with_gradients(hybrid_attention, sample, rate, stabilizer, max);
  const Result reference = with_gradients(test::hybrid_attention_reference, sample, rate, stabilizer, max);
  EXPECT_LT(largest_difference(ours.y, reference.y), 1e-11 * (1 + largest(reference.y)));
  for (size_t i = 0; i < ours.gradients.size(); ++i) {
    ASSERT_EQ(ours.gradients[i].defined(), reference.gradients[i].defined()) << "input " << i;
    if (!ours.gradients[i].defined()) continue;
    EXPECT_LT(largest_difference(ours.gradients[i], reference.gradients[i]),
              1e-10 * (1 + largest(reference.gradients[i])))
        << "gradient of input " << i;
  }
}

void expect_same_for_every_setting(const Sample& sample, const std::vector<Rate>& rates) {
  for (const Rate rate : rates)
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse})
      for (const MaxGradient max : {MaxGradient::through, MaxGradient::constant})
        expect_same_as_reference(sample, rate, stabilizer, max);
}

const std::vector<Rate> all_rates = parse_rates("1,2,3,4,8,linear");

TEST(HybridAttention, EqualsTheReferenceAndItsGradientsForEveryRate) {
  for (const int64_t tokens : {1, 5, 24, 37})
    expect_same_for_every_setting(random_sample(2, tokens, {.heads = 2, .head_dim = 8}, 1), all_rates);
}

TEST(HybridAttention, EqualsTheReferenceForEveryFeatureMap) {
  for (const OutputActivation activation :
       {OutputActivation::softplus, OutputActivation::relu, OutputActivation::elu1, OutputActivation::exp,
        OutputActivation::square, OutputActivation::none})
    for (const auto& [degree, layers] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {2, 3}, {3, 2}, {4, 2}}) {
      SCOPED_TRACE(to_string(activation) + ", degree " + std::to_string(degree));
      const FeatureMapConfig config{2, 4, degree, layers, activation};
      const Sample sample = random_sample(1, 19, config, 2);
      // Features that may be negative can bring a linear rate's normaliser to zero: no function to compare
      // there.
      const bool positive = activation != OutputActivation::none && activation != OutputActivation::relu;
      expect_same_as_reference(sample, Rate::every(3), Stabilizer::max, MaxGradient::through);
      expect_same_as_reference(sample, Rate::every(2), Stabilizer::lse, MaxGradient::through);
      if (positive) expect_same_as_reference(sample, Rate::linear(), Stabilizer::max, MaxGradient::through);
    }
}

TEST(HybridAttention, EqualsTheReferenceWithLogitsOfEighty) {
  // Spread over +-80, so that nearly all weight lies on one key; T_S and T_L both hold large ones.
  Sample sample = random_sample(1, 33, {.heads = 2, .head_dim = 8}, 3);
  const double reach = largest(at::matmul(sample.q, sample.k.transpose(2, 3))) / std::sqrt(8.0);
  sample.q = sample.q * (80 / reach);
  expect_same_for_every_setting(sample, all_rates);
}

TEST(HybridAttention, TakesStridedInputsAndGradients) {
  Sample sample = random_sample(2, 29, {.heads = 3, .head_dim = 8}, 4);
  for (at::Tensor* x : {&sample.q, &sample.k, &sample.v})
    *x = x->transpose(1, 2).contiguous().transpose(1, 2);
  expect_same_for_every_setting(sample, all_rates);
  const at::Tensor every_other = at::repeat_interleave(sample.v, 2, 3).slice(3, 0, 16, 2);
  sample.v = every_other;
  ASSERT_NE(sample.v.stride(3), 1);
  expect_same_as_reference(sample, Rate::every(2), Stabilizer::max, MaxGradient::through);
}

TEST(HybridAttention, SpansSeveralTilesOfTokens) {
  // 8 heads of 64 with four powers: a tile holds 64 tokens.
  const Sample sample =
      random_sample(4, 150, {.heads = 8, .head_dim = 64, .degree = 4, .layers = 1}, 5, at::kDouble, 0.7);
  for (const Rate rate : parse_rates("3,8,linear"))
    expect_same_as_reference(sample, rate, Stabilizer::max, MaxGradient::through);
}

TEST(HybridAttention, GradientsAgreeWithFiniteDifferences) {
  const Sample sample = random_sample(1, 21, {.heads = 2, .head_dim = 4}, 6, at::kDouble, 1.5);
  const at::Tensor weights = random_normal({99, 1}, sample.q.sizes()).to(at::kDouble);
  for (const Rate rate : all_rates)
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse}) {
      SCOPED_TRACE("rate " + rate.name() + ", stabilizer " + to_string(stabilizer));
      const Result ours = with_gradients(hybrid_attention, sample, rate, stabilizer, MaxGradient::through);
      const auto value = [&](const Sample& at) {
        return (hybrid_attention(at.q, at.k, at.v, at.phi_q, at.phi_k, rate, stabilizer) * weights)
            .sum()
            .item<double>();
      };
      for (size_t i = 0; i < ours.gradients.size(); ++i) {
        if (!ours.gradients[i].defined()) continue;
        const double step = 1e-6;
        const at::Tensor direction = random_normal({98, i}, ours.gradients[i].sizes()).to(at::kDouble);
        const auto moved = [&](double by) {
          std::vector<at::Tensor> all = tensors(sample);
          all[i] = all[i] + direction * by;
          Sample at{all[0], all[1], all[2], {sample.phi_q.config, {}, {}}, {sample.phi_k.config, {}, {}}};
          const size_t half = sample.phi_q.parameters().size();
          for (size_t p = 3; p < all.size(); ++p) {
            FeatureMap& phi = p - 3 < half ? at.phi_q : at.phi_k;
            ((p - 3) % 2 == 0 ? phi.weight : phi.bias).push_back(all[p]);
          }
          return value(at);
        };
        const double slope = (ours.gradients[i] * direction).sum().item<double>();
        EXPECT_NEAR((moved(step) - moved(-step)) / (2 * step), slope, 2e-7 * (1 + std::abs(slope)))
            << "input " << i;
      }
    }
}

TEST(HybridAttention, GradientThroughTheMaximumDiffersFromTheConstantOne) {
  const Sample sample = random_sample(1, 24, {.heads = 2, .head_dim = 8}, 7);
  const Result through = with_gradients(hybrid_attention, sample, Rate::every(2), Stabilizer::max,
                                        MaxGradient::through),
               constant = with_gradients(hybrid_attention, sample, Rate::every(2), Stabilizer::max,
                                         MaxGradient::constant);
  EXPECT_TRUE(at::equal(through.y, constant.y));
  EXPECT_GT(largest_difference(through.gradients[0], constant.gradients[0]), 1e-3);
  EXPECT_TRUE(at::equal(through.gradients[2], constant.gradients[2])) << "v does not move c";
}

TEST(HybridAttention, Fp32AgreesWithFp64) {
  for (const Rate rate : all_rates)
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse}) {
      SCOPED_TRACE("rate " + rate.name() + ", stabilizer " + to_string(stabilizer));
      const Sample wide = random_sample(1, 203, {.heads = 2, .head_dim = 16}, 8);
      const Sample narrow = random_sample(1, 203, {.heads = 2, .head_dim = 16}, 8, at::kFloat);
      const Result exact = with_gradients(test::hybrid_attention_reference, wide, rate, stabilizer,
                                          MaxGradient::through),
                   ours = with_gradients(hybrid_attention, narrow, rate, stabilizer, MaxGradient::through);
      EXPECT_LT(largest_difference(ours.y, exact.y), 2e-5);
      for (size_t i = 0; i < exact.gradients.size(); ++i) {
        if (!exact.gradients[i].defined()) continue;
        EXPECT_LT(largest_difference(ours.gradients[i], exact.gradients[i]),
                  1e-4 * (1 + largest(exact.gradients[i])))
            << "gradient of input " << i;
      }
    }
}

TEST(HybridAttention, TakesHalfWidthModels) {
  const Sample wide = random_sample(1, 64, {.heads = 2, .head_dim = 16}, 9, at::kDouble, 1.0);
  const Sample half = random_sample(1, 64, {.heads = 2, .head_dim = 16}, 9, at::kBFloat16, 1.0);
  for (const Rate rate : all_rates)
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse}) {
      const Result exact = with_gradients(test::hybrid_attention_reference, wide, rate, stabilizer,
                                          MaxGradient::through),
                   ours = with_gradients(hybrid_attention, half, rate, stabilizer, MaxGradient::through);
      EXPECT_EQ(ours.y.scalar_type(), at::kBFloat16);
      EXPECT_LT(largest_difference(ours.y, exact.y), 0.06) << "rate " << rate.name();
      for (size_t i = 0; i < exact.gradients.size(); ++i) {
        if (!exact.gradients[i].defined()) continue;
        EXPECT_EQ(ours.gradients[i].scalar_type(), at::kBFloat16);
        EXPECT_LT(largest_difference(ours.gradients[i], exact.gradients[i]),
                  0.06 * (0.1 + largest(exact.gradients[i])))
            << "rate " << rate.name() << ", gradient of input " << i;
      }
    }
}

TEST(HybridAttention, GivesGradientsOnlyWhereTheyAreWanted) {
  const Sample sample = random_sample(1, 24, {.heads = 2, .head_dim = 8}, 10);
  const std::vector<at::Tensor> everything =
      with_gradients(hybrid_attention, sample, Rate::every(2), Stabilizer::max, MaxGradient::through)
          .gradients;
  const at::Tensor weights = random_normal(RandomKey{99, 1}, sample.q.sizes()).to(at::kDouble);
  std::vector<at::Tensor> inputs{sample.q, sample.k, sample.v};
  for (size_t wanted = 0; wanted < 3; ++wanted) {
    std::vector<at::Tensor> leaves = inputs;
    leaves[wanted] = leaves[wanted].detach().requires_grad_(true);
    const at::Tensor y = hybrid_attention(leaves[0], leaves[1], leaves[2], sample.phi_q, sample.phi_k,
                                          Rate::every(2), Stabilizer::max);
    const auto gradient = torch::autograd::grad({(y * weights).sum()}, {leaves[wanted]});
    EXPECT_LT(largest_difference(gradient[0], everything[wanted]), 1e-12);
  }
}

}  // namespace
}  // namespace surgery
