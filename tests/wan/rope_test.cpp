#include "wan/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace surgery {
namespace {

TEST(Rope, SplitsAHeadAmongTimeHeightAndWidth) {
  EXPECT_EQ(rope_split(128), (std::array<int64_t, 3>{44, 42, 42}));
  EXPECT_EQ(rope_split(16), (std::array<int64_t, 3>{8, 4, 4}));
  for (const int64_t head_dim : {6, 22, 24, 64, 128}) {
    const auto split = rope_split(head_dim);
    EXPECT_EQ(split[0] + split[1] + split[2], head_dim);
  }
}

TEST(Rope, NormalisesEachAxisByItsOwnSize) {
  const auto time = rope_frequencies(44), space = rope_frequencies(42);
  ASSERT_EQ(time.size(), 22u);
  ASSERT_EQ(space.size(), 21u);
  EXPECT_DOUBLE_EQ(time[0], 1);
  EXPECT_NEAR(time[1], 0.657933225, 1e-9);
  EXPECT_NEAR(time[2], 0.432876128, 1e-9);
  EXPECT_NEAR(time[21], 1.51991e-4, 1e-9);
  EXPECT_NEAR(space[1], 0.644946677, 1e-9);
  EXPECT_NEAR(space[2], 0.415956216, 1e-9);
  EXPECT_NEAR(space[20], 1.55052e-4, 1e-9);
}

TEST(Rope, TableHoldsPositionTimesFrequencyInRowMajorTokenOrder) {
  const std::array<int64_t, 3> grid{2, 3, 5};
  const auto table = at::view_as_real(rope_table(grid, 128, at::kCPU));
  ASSERT_EQ(table.sizes(), (std::vector<int64_t>{1, 30, 1, 64, 2}));
  const auto time = rope_frequencies(44), space = rope_frequencies(42);
  const int64_t frame = 1, row = 2, column = 3, token = (frame * 3 + row) * 5 + column;
  const auto angle = [&](int64_t pair) {
    if (pair < 22) return static_cast<double>(frame) * time[static_cast<size_t>(pair)];
    if (pair < 43) return static_cast<double>(row) * space[static_cast<size_t>(pair - 22)];
    return static_cast<double>(column) * space[static_cast<size_t>(pair - 43)];
  };
  for (int64_t pair = 0; pair < 64; ++pair) {
    EXPECT_NEAR(table[0][token][0][pair][0].item<double>(), std::cos(angle(pair)), 1e-7);
    EXPECT_NEAR(table[0][token][0][pair][1].item<double>(), std::sin(angle(pair)), 1e-7);
  }
}

TEST(Rope, RotatesAdjacentPairs) {
  const std::array<int64_t, 3> grid{2, 2, 2};
  const auto x = random_normal({1, 2}, {2, 8, 3, 16});
  const auto table = rope_table(grid, 16, at::kCPU);
  const auto rotated = apply_rope(x, table);
  const auto angles = at::view_as_real(table);
  for (int64_t token = 0; token < 8; ++token)
    for (int64_t pair = 0; pair < 8; ++pair) {
      const double re = x[1][token][2][2 * pair].item<double>(),
                   im = x[1][token][2][2 * pair + 1].item<double>();
      const double cosine = angles[0][token][0][pair][0].item<double>(),
                   sine = angles[0][token][0][pair][1].item<double>();
      EXPECT_NEAR(rotated[1][token][2][2 * pair].item<double>(), re * cosine - im * sine, 1e-6);
      EXPECT_NEAR(rotated[1][token][2][2 * pair + 1].item<double>(), re * sine + im * cosine, 1e-6);
    }
}

TEST(Rope, LeavesLogitsToTheDifferenceOfPositions) {
  // The same q and k everywhere: the logit of two tokens depends on their distance along the column axis
  // only.
  const auto q = random_normal({1, 1}, {1, 1, 1, 16}).expand({1, 6, 1, 16}),
             k = random_normal({1, 2}, {1, 1, 1, 16}).expand({1, 6, 1, 16});
  const auto table = rope_table({1, 1, 6}, 16, at::kCPU);
  const auto logits = at::matmul(apply_rope(q, table)[0].squeeze(1), apply_rope(k, table)[0].squeeze(1).t());
  for (int64_t i = 0; i + 2 < 6; ++i)
    EXPECT_NEAR(logits[i][i + 2].item<double>(), logits[0][2].item<double>(), 1e-5);
  EXPECT_GT(std::abs(logits[0][2].item<double>() - logits[2][0].item<double>()), 1e-3);
}

TEST(Rope, CacheGivesEachGridItsOwnTable) {
  RopeCache cache;
  const auto first = cache.get({2, 3, 4}, 16, at::kCPU);
  EXPECT_TRUE(cache.get({2, 3, 4}, 16, at::kCPU).is_same(first));
  for (int64_t width = 1; width <= 12; ++width) {
    const auto table = cache.get({2, 4, width}, 16, at::kCPU);
    EXPECT_TRUE(
        at::equal(at::view_as_real(table), at::view_as_real(rope_table({2, 4, width}, 16, at::kCPU))));
  }
  EXPECT_TRUE(at::equal(at::view_as_real(cache.get({2, 3, 4}, 16, at::kCPU)), at::view_as_real(first)));
}

}  // namespace
}  // namespace surgery
