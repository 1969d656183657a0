#include "wan/flow.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace surgery {
namespace {

std::vector<double> draws(const LevelDensity& density, int count = 20001) {
  RandomStream random(RandomKey{1, 2});
  std::vector<double> levels;
  for (int i = 0; i < count; ++i) levels.push_back(draw_level(density, random));
  std::ranges::sort(levels);
  return levels;
}

double median(const std::vector<double>& sorted) {
  return sorted[sorted.size() / 2];
}

TEST(LevelDensity, UniformIsThePlainDraw) {
  RandomStream first(RandomKey{1, 2}), second(RandomKey{1, 2});
  for (int i = 0; i < 8; ++i) EXPECT_EQ(draw_level({}, first), second.uniform());
}

TEST(LevelDensity, LogitNormalShiftedHasItsMedianAtShiftOverOneMore) {
  auto levels = draws({.name = "logit_normal"});
  for (const double shift : {1.0, 3.0, 5.0}) {
    EXPECT_NEAR(shifted_level(median(levels), shift), shift / (1 + shift), 0.01);
    // P(sigma > 1/2) is Phi(ln shift): .50, .86, .95
    const auto above = std::ranges::count_if(levels, [&](double u) { return shifted_level(u, shift) > 0.5; });
    const double expected = shift == 1 ? 0.5 : shift == 3 ? 0.864 : 0.946;
    EXPECT_NEAR(static_cast<double>(above) / static_cast<double>(levels.size()), expected, 0.012);
  }
  EXPECT_NEAR(median(draws({.name = "logit_normal", .mean = 1})), 1 / (1 + std::exp(-1)), 0.01);
}

TEST(LevelDensity, ModeIsUniformAtScaleZeroAndCrowdsTheMiddleAboveIt) {
  const auto share_of_middle = [](double scale) {
    const auto levels = draws({.name = "mode", .mode_scale = scale});
    EXPECT_GE(levels.front(), 0);
    EXPECT_LE(levels.back(), 1);
    return static_cast<double>(std::ranges::count_if(levels, [](double u) { return u > 0.25 && u < 0.75; })) /
           static_cast<double>(levels.size());
  };
  EXPECT_NEAR(share_of_middle(0), 0.5, 0.015);
  EXPECT_GT(share_of_middle(1.29), 0.6);
}

TEST(LossWeighting, HasTheValuesOfTheProgramsItIsNamedAfter) {
  const LossWeighting bell("bell", 5);
  EXPECT_NEAR(bell.at(1), 0, 1e-12);
  EXPECT_NEAR(bell.at(0.9), 0.63, 0.005);
  EXPECT_NEAR(bell.at(0.5), 2.08, 0.005);
  EXPECT_NEAR(bell.at(0.01), 0.06, 0.005);
  EXPECT_EQ(LossWeighting("none", 3).at(0.2), 1);
  EXPECT_DOUBLE_EQ(LossWeighting("sigma_sqrt", 3).at(0.5), 4);
  EXPECT_DOUBLE_EQ(LossWeighting("sigma_sqrt", 3).at(0), 1e6) << "no level is lighter than the least of 1000";
  EXPECT_NEAR(LossWeighting("cosmap", 3).at(0.5), 2 / (std::numbers::pi * 0.5), 1e-12);
  EXPECT_THROW(LossWeighting("cosine", 3), Error);
}

}  // namespace
}  // namespace surgery
