#include "recipe/knapsack.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/errors.h"
#include "base/random.h"

namespace surgery {
namespace {

KnapsackClasses random_classes(uint64_t seed, int64_t classes, int64_t items, bool integers) {
  RandomStream random({seed, 7});
  KnapsackClasses result(static_cast<size_t>(classes));
  for (auto& klass : result)
    for (int64_t i = 0; i < items; ++i) {
      const double e = random.uniform() * 10, c = random.uniform() * 10;
      klass.push_back(integers ? KnapsackItem{std::floor(e), std::floor(c)} : KnapsackItem{e, c});
    }
  return result;
}

// Least error over every choice.
double brute_force(const KnapsackClasses& classes, double budget, size_t at = 0, double error = 0,
                   double cost = 0) {
  if (at == classes.size()) return cost <= budget ? error : std::numeric_limits<double>::infinity();
  double best = std::numeric_limits<double>::infinity();
  for (const KnapsackItem& item : classes[at])
    best = std::min(best, brute_force(classes, budget, at + 1, error + item.error, cost + item.cost));
  return best;
}

TEST(Knapsack, EqualsEnumerationOnManySmallTables) {
  int feasible = 0;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const auto classes = random_classes(seed, 2 + seed % 5, 1 + seed % 4, seed % 2 == 0);
    const double budget = 0.37 + static_cast<double>(seed % 31);
    const double expected = brute_force(classes, budget);
    const KnapsackSolution solution = solve_knapsack(classes, budget);
    ASSERT_EQ(solution.feasible, std::isfinite(expected)) << seed;
    if (!solution.feasible) continue;
    ++feasible;
    ASSERT_NEAR(solution.error, expected, 1e-9) << seed;
    ASSERT_TRUE(solution.optimal);
    ASSERT_EQ(solution.bound, solution.error);
    ASSERT_LE(solution.cost, budget + 1e-9);
  }
  EXPECT_GT(feasible, 300);
}

TEST(Knapsack, TiesAndEqualCostsStayExact) {
  // The shape of a real table: every block has the same costs.
  for (uint64_t seed = 0; seed < 40; ++seed) {
    RandomStream random({seed, 3});
    KnapsackClasses classes(7);
    for (auto& klass : classes)
      klass = {{0, 1}, {random.uniform(), 0.53}, {random.uniform() + 0.5, 0.3}, {random.uniform() + 1, 0.2}};
    const double budget = 2 + random.uniform() * 5;
    EXPECT_NEAR(solve_knapsack(classes, budget).error, brute_force(classes, budget), 1e-12);
  }
}

TEST(Knapsack, LargeTablesAreSolvedToOptimality) {
  const auto classes = random_classes(5, 1000, 16, false);
  const KnapsackSolution solution = solve_knapsack(classes, 2500);
  ASSERT_TRUE(solution.feasible);
  EXPECT_TRUE(solution.optimal);
  EXPECT_LE(solution.cost, 2500 * (1 + 1e-12));
}

TEST(Knapsack, BlocksThatAreAllAlikeAreSolvedToOptimality) {
  // Nearly one convex curve of real-valued costs, as of blocks that differ little: hardly any class closes.
  for (uint64_t seed = 0; seed < 3; ++seed) {
    RandomStream random({seed, 11});
    KnapsackClasses small(12), large(1000);
    const auto fill = [&](KnapsackClasses& classes, int64_t items) {
      for (auto& klass : classes) {
        const double scale = 0.9 + 0.2 * random.uniform();
        for (int64_t i = 0; i < items; ++i) {
          const double cost = (static_cast<double>(i) + 0.2 * random.uniform()) / static_cast<double>(items);
          klass.push_back({scale * (1 - cost) * (1 - cost), cost});
        }
      }
    };
    fill(small, 3);
    EXPECT_NEAR(solve_knapsack(small, 4.5).error, brute_force(small, 4.5), 1e-12);
    fill(large, 16);
    EXPECT_TRUE(solve_knapsack(large, 550).optimal);
  }
}

TEST(Knapsack, InfeasibleBudgetNamesTheCheapest) {
  const KnapsackSolution solution = solve_knapsack({{{1, 2}, {0, 3}}, {{4, 5}}}, 6);
  EXPECT_FALSE(solution.feasible);
  EXPECT_DOUBLE_EQ(solution.cost, 7);
}

TEST(Knapsack, BadValuesAreRefused) {
  EXPECT_THROW(solve_knapsack({{{NAN, 1}}}, 1), Error);
  EXPECT_THROW(solve_knapsack({{}}, 1), Error);
  EXPECT_THROW(solve_knapsack({{{1, 1}}}, NAN), Error);
}

TEST(Frontier, HoldsEveryOptimum) {
  const auto classes = random_classes(11, 6, 4, false);
  const Frontier frontier = knapsack_frontier(classes);
  ASSERT_TRUE(frontier.complete);
  for (const FrontierPoint& point : frontier.points)
    EXPECT_NEAR(solve_knapsack(classes, point.cost).error, point.error, 1e-9);
  for (size_t i = 1; i < frontier.points.size(); ++i) {
    EXPECT_GT(frontier.points[i].cost, frontier.points[i - 1].cost);
    EXPECT_LT(frontier.points[i].error, frontier.points[i - 1].error);
  }
}

TEST(Frontier, IsCappedAndSaysSo) {
  const auto classes = random_classes(11, 30, 4, false);
  const Frontier frontier = knapsack_frontier(classes, 60, 40);
  EXPECT_FALSE(frontier.complete);
  EXPECT_GT(frontier.points.size(), 20u);
  EXPECT_LE(frontier.points.size(), 40u);
}

}  // namespace
}  // namespace surgery
