#include <gtest/gtest.h>

#include <functional>

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
  const Result reference = with_gradients(hybrid_attention_reference, sample, rate, stabilizer, max);
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

}  // namespace
}  // namespace surgery
