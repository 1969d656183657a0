#include "report/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/errors.h"

namespace surgery {
namespace {

TEST(Metrics, RelativeErrorIsTheDistanceInUnitsOfTheReference) {
  const auto reference = at::full({2, 3}, 2.0f);
  EXPECT_DOUBLE_EQ(relative_error(reference, reference), 0);
  EXPECT_NEAR(relative_error(reference * 1.5, reference), 0.5, 1e-12);
  EXPECT_DOUBLE_EQ(relative_error(at::zeros({2}), at::zeros({2})), 0);
  EXPECT_TRUE(std::isinf(relative_error(at::ones({2}), at::zeros({2}))));
  EXPECT_THROW(relative_error(at::ones({2}), at::ones({3})), Error);
  EXPECT_THROW(relative_error(at::ones({0}), at::ones({0})), Error);
}

TEST(Metrics, PsnrKnowsTheValuesRange) {
  const auto reference = at::zeros({1, 3, 2, 4, 4});
  // A difference of a tenth of the range everywhere is 20 dB, whatever the range.
  EXPECT_NEAR(psnr(reference + 0.2, reference, 2), 20, 1e-5);
  const auto bytes = at::full({4}, 100, at::kByte);
  EXPECT_NEAR(psnr(bytes + 51, bytes, 255), 20 * std::log10(5), 1e-9);
  EXPECT_TRUE(std::isinf(psnr(reference, reference, 2)));
  EXPECT_THROW(psnr(reference, at::zeros({1, 3, 2, 4, 5}), 2), Error);
}

TEST(Metrics, WilsonIntervalAgreesWithPublishedFigures) {
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

TEST(Metrics, MeanAndSpread) {
  EXPECT_EQ(mean_and_spread({}).count, 0);
  const std::vector<double> one{3}, four{2, 4, 4, 6};
  EXPECT_EQ(mean_and_spread(one).mean, 3);
  EXPECT_EQ(mean_and_spread(one).deviation, 0);
  EXPECT_EQ(mean_and_spread(four).mean, 4);
  EXPECT_NEAR(mean_and_spread(four).deviation, std::sqrt(8.0 / 3), 1e-12);
}

}  // namespace
}  // namespace surgery
