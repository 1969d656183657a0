#include "attention/losses.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/samples.h"
#include "base/errors.h"

namespace surgery {
namespace {

using test::largest_difference;
using test::random_sample;
using test::Sample;

/// Eq. 6 over the given rows, written out with every logit.
at::Tensor by_definition(const Sample& sample, const at::Tensor& c, Rate rate) {
  const double scale = 1 / std::sqrt(static_cast<double>(sample.q.size(3)));
  std::vector<int64_t> linear;
  for (int64_t j = 0; j < sample.k.size(2); ++j)
    if (rate.is_linear() || j % rate.stride() != 0) linear.push_back(j);
  const at::Tensor keys = sample.k.index_select(2, at::tensor(linear, at::kLong));
  const at::Tensor softmax = at::exp(at::matmul(sample.q, keys.transpose(2, 3)) * scale - c.unsqueeze(3));
  const at::Tensor kernel = at::matmul(sample.phi_q(sample.q), sample.phi_k(keys).transpose(2, 3));
  return at::log1p(at::square(softmax - kernel).mean());
}

SoftmaxPart part_of(const Sample& sample, Rate rate) {
  const int64_t stride = rate.is_linear() ? 1 : rate.stride(), tokens = sample.k.size(2);
  return softmax_part(sample.q, sample.k.slice(2, 0, tokens, stride), sample.v.slice(2, 0, tokens, stride),
                      true);
}

TEST(AttentionLoss, EqualsItsDefinitionWhenAllRowsAreSampled) {
  for (const Rate rate : parse_rates("2,3,8,linear"))
    for (const Stabilizer stabilizer : {Stabilizer::max, Stabilizer::lse}) {
      SCOPED_TRACE("rate " + rate.name() + ", stabilizer " + to_string(stabilizer));
      Sample sample = random_sample(2, 67, {.heads = 2, .head_dim = 8}, 1, at::kDouble, 1.0);
      std::vector<at::Tensor> leaves;
      for (const FeatureMap* phi : {&sample.phi_q, &sample.phi_k})
        for (const at::Tensor& parameter : phi->parameters())
          leaves.push_back(parameter.requires_grad_(true));
      const SoftmaxPart part = part_of(sample, rate);
      const at::Tensor wanted =
          by_definition(sample, stabilizer == Stabilizer::max ? part.max : part.lse, rate);
      const at::Tensor got = attention_loss(sample.q, sample.k, part, sample.phi_q, sample.phi_k, rate,
                                            stabilizer, 1000, {1, 2});
      EXPECT_NEAR(got.item<double>(), wanted.item<double>(), 1e-12 * (1 + wanted.item<double>()));
      const auto wanted_gradients = torch::autograd::grad({wanted * 3}, leaves);
      const auto gradients = torch::autograd::grad({got * 3}, leaves);
      for (size_t i = 0; i < leaves.size(); ++i)
        EXPECT_LT(largest_difference(gradients[i], wanted_gradients[i]),
                  1e-10 * (1 + test::largest(wanted_gradients[i])));
    }
}

TEST(AttentionLoss, SamplesRowsByItsKey) {
  const Sample sample = random_sample(1, 67, {.heads = 2, .head_dim = 8}, 2, at::kFloat, 1.0);
  const SoftmaxPart part = part_of(sample, Rate::every(2));
  const auto loss = [&](int64_t rows, RandomKey key) {
    return attention_loss(sample.q, sample.k, part, sample.phi_q, sample.phi_k, Rate::every(2),
                          Stabilizer::max, rows, key)
        .item<double>();
  };
  EXPECT_EQ(loss(16, {1, 2}), loss(16, {1, 2}));
  EXPECT_NE(loss(16, {1, 2}), loss(16, {1, 3}));
  EXPECT_EQ(loss(67, {1, 2}), loss(100, {1, 3})) << "all rows: nothing is drawn";
  double mean = 0;
  for (uint64_t i = 0; i < 200; ++i) mean += std::expm1(loss(16, {4, i})) / 200;
  EXPECT_NEAR(mean, std::expm1(loss(67, {1, 2})), 0.1 * mean) << "sampling is unbiased before the logarithm";
}

TEST(AttentionLoss, IsZeroWithoutLinearTokensAndRefusesWhatItCannotUse) {
  const Sample sample = random_sample(1, 12, {.heads = 2, .head_dim = 8}, 3);
  SoftmaxPart part = part_of(sample, Rate::full());
  const auto loss = [&](Rate rate, Stabilizer stabilizer, int64_t rows) {
    return attention_loss(sample.q, sample.k, part, sample.phi_q, sample.phi_k, rate, stabilizer, rows,
                          {1, 2})
        .item<double>();
  };
  EXPECT_EQ(loss(Rate::full(), Stabilizer::max, 8), 0.0);
  EXPECT_THROW(loss(Rate::every(2), Stabilizer::max, 0), Error);
  part.max = at::Tensor();
  EXPECT_THROW(loss(Rate::every(2), Stabilizer::max, 8), Error);
  EXPECT_NO_THROW(loss(Rate::every(2), Stabilizer::lse, 8));
  part = {};
  EXPECT_THROW(loss(Rate::linear(), Stabilizer::lse, 8), Error);
}

TEST(ValueLoss, IsTheMeanAbsoluteDifference) {
  const at::Tensor a = random_normal({5, 0}, {2, 3, 4, 8}),
                   b = random_normal({5, 1}, {2, 3, 4, 8}).requires_grad_(true);
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i)
    sum += std::abs(a.flatten()[i].item<double>() - b.flatten()[i].item<double>());
  const at::Tensor loss = value_loss(a, b);
  EXPECT_NEAR(loss.item<double>(), sum / static_cast<double>(a.numel()), 1e-6);
  const at::Tensor gradient = torch::autograd::grad({loss}, {b})[0];
  EXPECT_LT(largest_difference(gradient, at::sign(b - a) / static_cast<double>(a.numel())), 1e-9);
  EXPECT_EQ(value_loss(a.to(at::kBFloat16), a.to(at::kBFloat16)).scalar_type(), at::kFloat);
  EXPECT_THROW(value_loss(a, b.narrow(2, 0, 3)), Error);
}

}  // namespace
}  // namespace surgery
