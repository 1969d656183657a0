#include <gtest/gtest.h>

#include "attention/hybrid_function.h"
#include "attention/hybrid_reference.h"
#include "attention/samples.h"
#include "base/errors.h"

namespace surgery {
namespace {

using test::largest_difference;
using test::random_sample;
using test::Sample;

SoftmaxPart part_of(const Sample& sample, Rate rate, bool with_max) {
  if (rate.is_linear()) return {};
  const int64_t tokens = sample.k.size(2), stride = rate.stride();
  return softmax_part(sample.q, sample.k.slice(2, 0, tokens, stride), sample.v.slice(2, 0, tokens, stride),
                      with_max);
}

std::vector<at::Tensor> learn(Sample& sample) {
  std::vector<at::Tensor> leaves;
  for (FeatureMap* phi : {&sample.phi_q, &sample.phi_k})
    for (const at::Tensor& parameter : phi->parameters()) {
      parameter.requires_grad_(true);
      leaves.push_back(parameter);
    }
  return leaves;
}

TEST(FrozenSoftmaxPart, GivesTheSameOutputAndGradientsToPhi) {
  for (const Rate rate : parse_rates("2,3,8,linear"))
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse}) {
      SCOPED_TRACE("rate " + rate.name() + ", stabilizer " + to_string(stabilizer));
      Sample sample = random_sample(2, 37, {.heads = 2, .head_dim = 8}, 1);
      const std::vector<at::Tensor> leaves = learn(sample);
      const SoftmaxPart part = part_of(sample, rate, stabilizer == Stabilizer::max);
      const at::Tensor wanted = test::hybrid_attention_reference(sample.q, sample.k, sample.v, sample.phi_q,
                                                                 sample.phi_k, rate, stabilizer);
      const at::Tensor got =
          hybrid_from_part(part, sample.q, sample.k, sample.v, sample.phi_q, sample.phi_k, rate, stabilizer);
      EXPECT_LT(largest_difference(got, wanted), 1e-11);
      const auto wanted_gradients = torch::autograd::grad({wanted.square().sum()}, leaves);
      const auto gradients = torch::autograd::grad({got.square().sum()}, leaves);
      for (size_t i = 0; i < leaves.size(); ++i)
        EXPECT_LT(largest_difference(gradients[i], wanted_gradients[i]),
                  1e-10 * (1 + test::largest(wanted_gradients[i])));
    }
}

TEST(FrozenSoftmaxPart, CostsNoMorePartsForMoreRates) {
  Sample sample = random_sample(1, 41, {.heads = 2, .head_dim = 8}, 2);
  const std::vector<Rate> rates = parse_rates("2,4,8");
  SoftmaxPart full;
  const std::vector<SoftmaxPart> parts =
      nested_softmax_parts(sample.q, sample.k, sample.v, rates, true, full);
  for (size_t i = 0; i < rates.size(); ++i)
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse})
      EXPECT_LT(largest_difference(hybrid_from_part(parts[i], sample.q, sample.k, sample.v, sample.phi_q,
                                                    sample.phi_k, rates[i], stabilizer),
                                   hybrid_attention(sample.q, sample.k, sample.v, sample.phi_q, sample.phi_k,
                                                    rates[i], stabilizer)),
                1e-12);
  EXPECT_TRUE(at::equal(hybrid_from_part(full, sample.q, sample.k, sample.v, sample.phi_q, sample.phi_k,
                                         Rate::full(), Stabilizer::max),
                        full.output));
}

TEST(FrozenSoftmaxPart, ReportsTheSmallestNormalizerOfALinearRate) {
  const Sample sample = random_sample(1, 20, {.heads = 2, .head_dim = 8}, 3);
  double smallest = -1;
  hybrid_from_part({}, sample.q, sample.k, sample.v, sample.phi_q, sample.phi_k, Rate::linear(),
                   Stabilizer::max, &smallest);
  const double wanted =
      at::matmul(sample.phi_q(sample.q), sample.phi_k(sample.k).transpose(2, 3)).sum(3).min().item<double>();
  EXPECT_NEAR(smallest, wanted, 1e-12 * wanted);
}

TEST(FrozenSoftmaxPart, RefusesPartsAndMapsOfOthers) {
  const Sample sample = random_sample(1, 20, {.heads = 2, .head_dim = 8}, 4);
  const auto expect_refused = [&](const SoftmaxPart& part, const FeatureMap& phi_q, const FeatureMap& phi_k,
                                  const std::string& words) {
    try {
      hybrid_from_part(part, sample.q, sample.k, sample.v, phi_q, phi_k, Rate::every(2), Stabilizer::max);
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  const SoftmaxPart part = part_of(sample, Rate::every(2), true);
  const SoftmaxPart other =
      part_of(random_sample(1, 10, {.heads = 2, .head_dim = 8}, 4), Rate::every(2), true);
  expect_refused(other, sample.phi_q, sample.phi_k, "belongs to other queries");
  expect_refused({}, sample.phi_q, sample.phi_k, "no softmax part");
  expect_refused(part_of(sample, Rate::every(2), false), sample.phi_q, sample.phi_k, "row maximum");
  expect_refused(part, FeatureMap::initial({3, 8}, {1, 0}), sample.phi_k, "phi_q is for 3 heads of 8");
  expect_refused(part, sample.phi_q, FeatureMap::initial({2, 8, 3}, {1, 0}),
                 "phi_q has 16 features, phi_k 24");
  FeatureMap cut = sample.phi_k;
  cut.weight.pop_back();
  expect_refused(part, sample.phi_q, cut, "phi_k has 1 weights and 2 biases");
  FeatureMap mixed = sample.phi_k;
  mixed.weight[1] = mixed.weight[1].narrow(2, 0, 8);
  expect_refused(part, sample.phi_q, mixed, "phi_k layer 1");
}

TEST(Stabilizer, ReadsItsNames) {
  for (const Stabilizer one : {Stabilizer::max, Stabilizer::lse})
    EXPECT_EQ(parse_stabilizer(to_string(one)), one);
  try {
    parse_stabilizer("sum");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_STREQ(error.what(), "stabilizer 'sum' is not known (c_i of Eq. 5): give max or lse");
  }
}

}  // namespace
}  // namespace surgery
