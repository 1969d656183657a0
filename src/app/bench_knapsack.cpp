#include "app/bench.h"
#include "base/random.h"
#include "recipe/knapsack.h"

namespace surgery {
namespace {

/// Errors that fall as costs rise, by real numbers of any kind; `correlated`: as nearly on one line as the
/// tables of a model whose blocks are all alike.
KnapsackClasses random_classes(int64_t classes, int64_t items, bool correlated, RandomKey key) {
  RandomStream random(key);
  KnapsackClasses result(static_cast<size_t>(classes));
  for (auto& row : result) {
    const double scale = correlated ? 0.9 + 0.2 * random.uniform() : random.uniform();
    for (int64_t i = 0; i < items; ++i) {
      const double cost = correlated
                              ? (static_cast<double>(i) + 0.2 * random.uniform()) / static_cast<double>(items)
                              : random.uniform();
      const double error = correlated ? scale * (1 - cost) * (1 - cost) : random.uniform();
      row.push_back({error, cost});
    }
  }
  return result;
}

}  // namespace

BenchTable bench_knapsack(const BenchOptions& options) {
  BenchTable table{"multiple-choice knapsack, exact, mean over ten random tables, budget 60 % of the range",
                   {}};
  const auto measure = [&](int64_t classes, int64_t items, bool correlated, double limit) {
    std::vector<KnapsackClasses> instances;
    std::vector<double> budgets;
    for (uint64_t i = 0; i < 10; ++i) {
      instances.push_back(random_classes(classes, items, correlated,
                                         RandomKey{2024, 2}.with(static_cast<uint64_t>(classes)).with(i)));
      double least = 0, most = 0;
      for (const auto& row : instances.back()) {
        double low = row[0].cost, high = row[0].cost;
        for (const KnapsackItem& item : row) low = std::min(low, item.cost), high = std::max(high, item.cost);
        least += low, most += high;
      }
      budgets.push_back(least + 0.6 * (most - least));
    }
    int64_t proven = 0, states = 0;
    const double seconds = interleaved_best({[&] {
                                              proven = 0, states = 0;
                                              for (size_t i = 0; i < instances.size(); ++i) {
                                                const auto solved = solve_knapsack(instances[i], budgets[i]);
                                                proven += solved.optimal;
                                                states = std::max(states, solved.states);
                                              }
                                            }},
                                            options.repetitions)[0] /
                           static_cast<double>(instances.size());
    table.rows.push_back({.name = fmt::format("{} x {}, {}", classes, items, correlated ? "alike" : "random"),
                          .seconds = seconds,
                          .limit = limit,
                          .note = fmt::format("{} of 10 proven optimal, at most {} states", proven, states)});
  };
  measure(30, 4, false, 1e-4);
  measure(30, 4, true, 1e-4);
  measure(1000, 16, false, 0.1);
  measure(1000, 16, true, 0.1);
  return table;
}

}  // namespace surgery
