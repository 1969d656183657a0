#include "base/statistics.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace surgery {
namespace {

TEST(Statistics, WilsonIntervalAgreesWithPublishedFigures) {
  // Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
  const auto expect = [](int64_t successes, int64_t trials, double low, double high) {
    const auto found = wilson_interval(successes, trials);
    EXPECT_NEAR(found.low, low, 5e-5) << successes;
    EXPECT_NEAR(found.high, high, 5e-5) << successes;
    EXPECT_LE(found.low, found.share);
    EXPECT_GE(found.high, found.share);
  };
  expect(81, 263, 0.2553, 0.3662);
  expect(15, 148, 0.0624, 0.1605);
  expect(0, 20, 0.0000, 0.1611);
  expect(1, 29, 0.0061, 0.1718);
  EXPECT_EQ(wilson_interval(128, 128).high, 1.0);
  EXPECT_NEAR(wilson_interval(128, 128).low, 1 - wilson_interval(0, 128).high, 1e-12);
  EXPECT_EQ(wilson_interval(0, 0).low, 0);
  EXPECT_EQ(wilson_interval(0, 0).high, 1);
}

TEST(Median, IsTheMiddleOrTheUpperOfTwo) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 3);
  EXPECT_THROW(median({}), Error);
}

}  // namespace
}  // namespace surgery
