#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace surgery {

/// Multiple-choice knapsack (paper, Eq. 8): one item of every class, least total error, total cost within a
/// budget.
struct KnapsackItem {
  double error = 0, cost = 0;
};
using KnapsackClasses = std::vector<std::vector<KnapsackItem>>;

struct KnapsackSolution {
  bool feasible = false;
  std::vector<int64_t> choice;  ///< item of every class
  double error = 0, cost = 0;
  double bound = 0;      ///< proven lower bound of the error; equals `error` when `optimal`
  bool optimal = false;  ///< false only when the search was cut at its state limit
  int64_t states = 0;    ///< partial solutions looked at after reduction
};

/// Exact for real-valued errors and costs. Lagrangian reduction at the LP multiplier leaves few open classes
/// (after Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"); dynamic programs
/// over the Pareto states of each half of them, pruned by the same bound and joined, close the gap. Costs may
/// exceed the budget by rounding only (1e-12). Throws Error{data} for an empty class or values that are not
/// finite. Infeasible budgets return feasible = false with `cost` the cheapest cost there is.
KnapsackSolution solve_knapsack(const KnapsackClasses& classes, double budget,
                                int64_t state_limit = 20'000'000);

struct FrontierPoint {
  double error = 0, cost = 0;
};
struct Frontier {
  std::vector<FrontierPoint> points;  ///< cost ascending, error strictly descending; every point is exact
  bool complete = false;  ///< false: more than `cap` points exist; these are the optima of `samples` budgets
};

/// Error/cost frontier of all choices.
Frontier knapsack_frontier(const KnapsackClasses& classes, size_t cap = 20'000, int64_t samples = 256);

}  // namespace surgery
