#include "attention/feature_map.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/samples.h"
#include "base/errors.h"

namespace surgery {
namespace {

using test::largest_difference;
using test::random_feature_map;

const std::vector<OutputActivation> activations{OutputActivation::softplus, OutputActivation::relu,
                                                OutputActivation::elu1,     OutputActivation::exp,
                                                OutputActivation::square,   OutputActivation::none};

double activate(OutputActivation activation, double x) {
  switch (activation) {
    case OutputActivation::softplus:
      return std::log1p(std::exp(x));
    case OutputActivation::relu:
      return std::max(x, 0.0);
    case OutputActivation::elu1:
      return x > 0 ? x + 1 : std::exp(x);
    case OutputActivation::exp:
      return std::exp(x);
    case OutputActivation::square:
      return x * x;
    case OutputActivation::none:
      return x;
  }
  return NAN;
}

/// phi of one token of one head, written out.
std::vector<double> by_hand(const FeatureMap& phi, int64_t head, const std::vector<double>& token) {
  std::vector<double> x = token;
  for (int64_t l = 0; l < phi.config.layers; ++l) {
    std::vector<double> next(static_cast<size_t>(phi.config.features()));
    for (size_t o = 0; o < next.size(); ++o) {
      double sum = phi.bias[l][head][static_cast<int64_t>(o)].item<double>();
      for (size_t i = 0; i < x.size(); ++i)
        sum += phi.weight[l][head][static_cast<int64_t>(o)][static_cast<int64_t>(i)].item<double>() * x[i];
      const bool last = l + 1 == phi.config.layers;
      next[o] = last ? activate(phi.config.output_activation, sum)
                     : 0.5 * sum * (1 + std::erf(sum / std::sqrt(2.0)));
    }
    x = next;
  }
  for (size_t o = 0; o < x.size(); ++o)
    x[o] = std::pow(x[o], static_cast<double>(o / static_cast<size_t>(phi.config.head_dim) + 1));
  return x;
}

TEST(FeatureMap, IsAPerHeadNetworkWhoseSlicesAreRaisedToTheirPower) {
  for (const OutputActivation activation : activations)
    for (const int64_t degree : {1, 2, 3, 4})
      for (const int64_t layers : {1, 2, 3}) {
        const FeatureMapConfig config{3, 4, degree, layers, activation};
        const FeatureMap phi = random_feature_map(config, {5, static_cast<uint64_t>(layers)}, at::kDouble);
        const at::Tensor x = random_normal({6, 0}, {2, 3, 5, 4}).to(at::kDouble);
        const at::Tensor y = phi(x);
        ASSERT_EQ(y.sizes(), (std::vector<int64_t>{2, 3, 5, degree * 4}));
        for (int64_t head = 0; head < 3; ++head) {
          std::vector<double> token;
          for (int64_t d = 0; d < 4; ++d) token.push_back(x[1][head][2][d].item<double>());
          const std::vector<double> wanted = by_hand(phi, head, token);
          for (size_t f = 0; f < wanted.size(); ++f)
            EXPECT_NEAR(y[1][head][2][static_cast<int64_t>(f)].item<double>(), wanted[f],
                        1e-12 * (1 + std::abs(wanted[f])))
                << to_string(activation) << ", degree " << degree << ", layers " << layers;
        }
      }
}

TEST(FeatureMap, GradientsAgreeWithFiniteDifferences) {
  for (const OutputActivation activation : activations)
    for (const auto& [degree, layers] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {2, 2}, {4, 3}, {3, 2}}) {
      const FeatureMapConfig config{2, 4, degree, layers, activation};
      FeatureMap phi = random_feature_map(config, {7, 0}, at::kDouble);
      at::Tensor x = random_normal({8, 0}, {2, 2, 3, 4}).to(at::kDouble);
      const at::Tensor weights = random_normal({9, 0}, phi(x).sizes()).to(at::kDouble);
      std::vector<at::Tensor> leaves = phi.parameters();
      leaves.push_back(x);
      for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
      const auto gradients = torch::autograd::grad({(phi(x) * weights).sum()}, leaves);
      at::NoGradGuard no_grad;
      for (size_t i = 0; i < leaves.size(); ++i) {
        const at::Tensor direction = random_normal({10, i}, leaves[i].sizes()).to(at::kDouble);
        const double step = 1e-6;
        leaves[i].add_(direction, step);
        const double above = (phi(x) * weights).sum().item<double>();
        leaves[i].add_(direction, -2 * step);
        const double below = (phi(x) * weights).sum().item<double>();
        leaves[i].add_(direction, step);
        const double slope = (gradients[i] * direction).sum().item<double>();
        EXPECT_NEAR((above - below) / (2 * step), slope, 1e-6 * (1 + std::abs(slope)))
            << to_string(activation) << ", degree " << degree << ", leaf " << i;
      }
    }
}

TEST(FeatureMap, Fp32AgreesWithFp64AlsoWithoutGradient) {
  for (const OutputActivation activation : activations)
    for (const int64_t head_dim : {16, 12, 128}) {
      const FeatureMapConfig config{2, head_dim, 2, 2, activation};
      FeatureMap wide = FeatureMap::initial(config, {11, 0}), narrow = wide;
      for (size_t l = 0; l < wide.weight.size(); ++l) {
        wide.weight[l] = wide.weight[l].to(at::kDouble);
        wide.bias[l] = wide.bias[l].to(at::kDouble);
      }
      const at::Tensor x = random_normal({12, 0}, {2, 2, 131, head_dim}) * 4;
      const at::Tensor wanted = wide(x.to(at::kDouble));
      EXPECT_LT(largest_difference(narrow(x), wanted), 3e-5 * (1 + test::largest(wanted)));
      const at::Tensor strided = x.transpose(1, 2).contiguous().transpose(1, 2);
      EXPECT_LT(largest_difference(narrow(strided), wanted), 3e-5 * (1 + test::largest(wanted)));
      at::NoGradGuard no_grad;
      EXPECT_LT(largest_difference(narrow(x), wanted), 3e-5 * (1 + test::largest(wanted)));
    }
}

TEST(FeatureMap, StartsSmallForEveryActivationAndRepeatably) {
  for (const OutputActivation activation : activations) {
    const FeatureMapConfig config{2, 16, 2, 2, activation};
    const FeatureMap one = FeatureMap::initial(config, {3, 1}), same = FeatureMap::initial(config, {3, 1}),
                     other = FeatureMap::initial(config, {3, 2});
    ASSERT_EQ(one.weight.size(), 2U);
    EXPECT_EQ(one.weight[0].sizes(), (std::vector<int64_t>{2, 32, 16}));
    EXPECT_EQ(one.weight[1].sizes(), (std::vector<int64_t>{2, 32, 32}));
    EXPECT_EQ(one.bias[1].sizes(), (std::vector<int64_t>{2, 32}));
    for (size_t l = 0; l < 2; ++l) {
      EXPECT_TRUE(at::equal(one.weight[l], same.weight[l]));
      EXPECT_FALSE(at::equal(one.weight[l], other.weight[l]));
    }
    EXPECT_NEAR(one.weight[0].std().item<double>(), 0.25, 0.02);
    const at::Tensor first_power = one(random_normal({4, 0}, {1, 2, 256, 16})).narrow(3, 0, 16);
    EXPECT_GT(first_power.mean().item<double>(), 0.02) << to_string(activation);
    EXPECT_LT(first_power.mean().item<double>(), 0.09) << to_string(activation);
  }
  const FeatureMap standard = FeatureMap::initial({2, 16}, {3, 1});
  EXPECT_EQ(standard.bias[0].abs().max().item<double>(), 0.0);
  EXPECT_EQ(standard.bias[1].min().item<double>(), -3.0);
  EXPECT_EQ(standard.bias[1].max().item<double>(), -3.0);
}

TEST(FeatureMap, NamesItsActivationsAndRefusesOthers) {
  for (const OutputActivation activation : activations)
    EXPECT_EQ(parse_output_activation(to_string(activation)), activation);
  try {
    parse_output_activation("swish");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_STREQ(
        error.what(),
        "output activation 'swish' of phi is not known: give one of softplus, relu, elu1, exp, square, none");
  }
}

TEST(FeatureMap, RefusesWrongShapes) {
  const FeatureMap phi = FeatureMap::initial({2, 16}, {3, 1});
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{2, 5, 16}, {1, 3, 5, 16}, {1, 2, 5, 8}, {1, 1, 2, 5, 16}}) {
    try {
      phi(at::zeros(shape));
      FAIL() << "was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find("phi of 2 heads of 16"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(FeatureMap::initial({0, 16}, {3, 1}), Error);
  EXPECT_THROW(FeatureMap::initial({2, 16, 0}, {3, 1}), Error);
  EXPECT_THROW(FeatureMap::initial({2, 16, 2, 0}, {3, 1}), Error);
}

}  // namespace
}  // namespace surgery
