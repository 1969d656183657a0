#include "attention/cost_model.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace surgery {
namespace {

CostGeometry wan(int64_t height, int64_t width) {
  CostGeometry g;
  g.tokens = video_tokens(81, height, width);
  return g;
}

FeatureMapConfig phi(int64_t degree, int64_t layers) {
  return {12, 128, degree, layers};
}

/// Share of the teacher's FLOPs when `count` blocks are hybrid.
double student_share(const CostGeometry& g, int64_t count, Rate rate) {
  const double saved =
      attention_core_flops(g, phi(2, 2), Rate::full()) - attention_core_flops(g, phi(2, 2), rate);
  return 100 * (1 - static_cast<double>(count) * saved / transformer_flops(g));
}

TEST(CostModel, CountsTokensOfAClip) {
  EXPECT_EQ(video_tokens(81, 480, 832), 32760);
  EXPECT_EQ(video_tokens(81, 320, 480), 12600);
  EXPECT_EQ(video_tokens(17, 128, 160), 400);
  EXPECT_EQ(video_tokens(1, 16, 16), 1);
  for (const auto& [frames, height, width] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {80, 480, 832}, {0, 480, 832}, {81, 470, 832}, {81, 480, 0}})
    EXPECT_THROW(video_tokens(frames, height, width), Error);
}

TEST(CostModel, SelfAttentionIsMostOfABlock) {
  const CostGeometry g = wan(480, 832);
  EXPECT_NEAR(100 * self_attention_flops(g) / block_flops(g), 76.46, 0.005);
}

TEST(CostModel, FeatureMapsHaveThePapersSizes) {
  const std::vector<std::tuple<int64_t, int64_t, double, double>> table{
      {2, 2, 1.19, 29.7}, {3, 2, 2.37, 59.5}, {4, 2, 3.94, 99.1}, {6, 3, 15.36, 386.5}};
  for (const auto& [degree, layers, millions, gigaflops] : table) {
    EXPECT_NEAR(static_cast<double>(feature_map_parameters(phi(degree, layers))) / 1e6, millions, 0.005);
    EXPECT_NEAR(feature_map_flops(phi(degree, layers), 12600) / 1e9, gigaflops, 0.06);
  }
  const FeatureMap real = FeatureMap::initial({3, 8, 4, 3}, {1, 0});
  int64_t numbers = 0;
  for (const at::Tensor& parameter : real.parameters()) numbers += parameter.numel();
  EXPECT_EQ(feature_map_parameters(real.config), numbers);
}

TEST(CostModel, StudentsCostTheirShareOfTheTeacherAt480x832) {
  const CostGeometry g = wan(480, 832);
  const std::vector<std::tuple<int64_t, int64_t, double>> table{{15, 2, 83.3}, {15, 4, 74.7}, {15, 8, 70.4},
                                                                {20, 4, 66.3}, {20, 8, 60.6}, {25, 8, 50.7}};
  for (const auto& [count, stride, share] : table)
    EXPECT_NEAR(student_share(g, count, Rate::every(stride)), share, 0.05) << count << "xR" << stride;
}

TEST(CostModel, StudentsCostTheirShareOfTheTeacherAt320x480) {
  const CostGeometry g = wan(320, 480);
  const std::vector<std::tuple<int64_t, int64_t, double>> table{
      {15, 2, 89.7}, {15, 8, 81.2}, {20, 8, 74.9}, {25, 8, 68.6}};
  for (const auto& [count, stride, share] : table)
    EXPECT_NEAR(student_share(g, count, Rate::every(stride)), share, 0.05) << count << "xR" << stride;
}

TEST(CostModel, HalfTheBlocksSaveUpToFortyPercentOfTheAttentionCore) {
  const CostGeometry g = wan(480, 832);
  const double full = attention_core_flops(g, phi(2, 2), Rate::full());
  for (const auto& [stride, saved] : std::vector<std::pair<int64_t, double>>{{2, 23.8}, {4, 36.1}, {8, 42.3}})
    EXPECT_NEAR(100 * 0.5 * (1 - attention_core_flops(g, phi(2, 2), Rate::every(stride)) / full), saved,
                0.05);
}

TEST(CostModel, ASmallTeacherGainsOnlyWithSmallHeads) {
  CostGeometry g;
  g.tokens = 400;
  g.heads = 8;
  g.head_dim = 16;
  const FeatureMapConfig small{8, 16, 2, 2};
  const double full = attention_core_flops(g, small, Rate::full());
  const std::vector<std::pair<const char*, double>> table{
      {"2", 0.74}, {"4", 0.53}, {"8", 0.43}, {"linear", 0.32}};
  for (const auto& [rate, share] : table)
    EXPECT_NEAR(attention_core_flops(g, small, Rate::parse(rate)) / full, share, 0.006) << rate;
}

TEST(CostModel, CostFallsWithTheRate) {
  const CostGeometry g = wan(320, 480);
  double before = attention_core_flops(g, phi(2, 2), Rate::full());
  for (const Rate rate : parse_rates("2,3,4,8,16,linear")) {
    const double cost = attention_core_flops(g, phi(2, 2), rate);
    EXPECT_LT(cost, before) << rate.name();
    before = cost;
  }
}

}  // namespace
}  // namespace surgery
