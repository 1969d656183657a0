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

}  // namespace
}  // namespace surgery
