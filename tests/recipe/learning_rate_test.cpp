#include "recipe/learning_rate.h"

#include <gtest/gtest.h>

namespace surgery {
namespace {

class Schedule : public testing::TestWithParam<std::string> {};

TEST_P(Schedule, WarmsUpInEqualStepsAndEndsAtItsFloor) {
  const RateSchedule schedule{.shape = GetParam(), .warmup = 10, .floor = 0.1};
  const auto rate = [&](int64_t step) { return scheduled_rate(schedule, step, 101, 2); };
  EXPECT_DOUBLE_EQ(rate(0), 0.2);
  EXPECT_DOUBLE_EQ(rate(4), 1.0);
  EXPECT_DOUBLE_EQ(rate(9), 2);
  EXPECT_DOUBLE_EQ(rate(10), 2);
  EXPECT_NEAR(rate(55), GetParam() == "constant" ? 2 : 1.1, 1e-12) << "half way";
  EXPECT_NEAR(rate(100), GetParam() == "constant" ? 2 : 0.2, 1e-12);
  if (GetParam() == "cosine") {
    EXPECT_GT(rate(32), 1.1 + 0.45 + 0.1) << "slow at first";
  }
  if (GetParam() == "linear") {
    EXPECT_NEAR(rate(11) - rate(12), rate(98) - rate(99), 1e-12);
  }
}
INSTANTIATE_TEST_SUITE_P(All, Schedule, testing::ValuesIn(rate_schedule_names()));

TEST(ScheduledRate, IsDefinedForTrainingsShorterThanTheirWarmUp) {
  EXPECT_DOUBLE_EQ(scheduled_rate({.shape = "cosine", .warmup = 10}, 1, 2, 1), 0.2);
  EXPECT_DOUBLE_EQ(scheduled_rate({.shape = "linear"}, 0, 1, 1), 1);
}

}  // namespace
}  // namespace surgery
