#include "recipe/knapsack.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Item {
  double error, cost;
  int64_t index;  // in the caller's class
};
using Classes = std::vector<std::vector<Item>>;

// Items of a class that no other item beats in both values: cost ascending, error strictly descending.
std::vector<Item> undominated(const std::vector<KnapsackItem>& items) {
  std::vector<Item> sorted;
  for (size_t i = 0; i < items.size(); ++i) {
    VALIDATE(std::isfinite(items[i].error) && std::isfinite(items[i].cost),
             "selection table holds a value that is not finite (item {}): make the tables again", i);
    sorted.push_back({items[i].error, items[i].cost, static_cast<int64_t>(i)});
  }
  VALIDATE(!sorted.empty(), "a block has no rate to choose from: check rates and pins");
  std::sort(sorted.begin(), sorted.end(), [](const Item& a, const Item& b) {
    return std::tie(a.cost, a.error, a.index) < std::tie(b.cost, b.error, b.index);
  });
  std::vector<Item> kept;
  for (const Item& item : sorted)
    if (kept.empty() || item.error < kept.back().error) kept.push_back(item);
  return kept;
}

// One step along a class's lower convex hull: pays `cost` to lose `error`.
struct Increment {
  double slope, cost;
  size_t klass, to;  // position in the class's undominated items
};

std::vector<Increment> hull_increments(const std::vector<Item>& items, size_t klass) {
  std::vector<size_t> hull;
  for (size_t i = 0; i < items.size(); ++i) {
    while (hull.size() >= 2) {
      const Item &a = items[hull[hull.size() - 2]], &b = items[hull.back()], &c = items[i];
      if ((a.error - b.error) * (c.cost - b.cost) > (b.error - c.error) * (b.cost - a.cost)) break;
      hull.pop_back();
    }
    hull.push_back(i);
  }
  std::vector<Increment> result;
  for (size_t i = 1; i < hull.size(); ++i) {
    const Item &a = items[hull[i - 1]], &b = items[hull[i]];
    result.push_back({(a.error - b.error) / (b.cost - a.cost), b.cost - a.cost, klass, hull[i]});
  }
  return result;
}

struct Relaxation {
  double multiplier = 0;       // error per cost at the break increment; 0 when every class gets its best item
  std::vector<size_t> greedy;  // a feasible choice
};

Relaxation relax(const Classes& classes, double budget) {
  std::vector<Increment> increments;
  for (size_t k = 0; k < classes.size(); ++k) {
    const auto own = hull_increments(classes[k], k);
    increments.insert(increments.end(), own.begin(), own.end());
  }
  std::sort(increments.begin(), increments.end(), [](const Increment& a, const Increment& b) {
    return std::tie(b.slope, a.klass, a.to) < std::tie(a.slope, b.klass, b.to);
  });
  Relaxation result;
  result.greedy.assign(classes.size(), 0);
  std::vector<bool> closed(classes.size(), false);  // a skipped step closes its class for later ones
  double used = 0;
  for (const auto& items : classes) used += items.front().cost;
  for (const Increment& step : increments) {
    if (closed[step.klass]) continue;
    if (used + step.cost <= budget) {
      used += step.cost;
      result.greedy[step.klass] = step.to;
    } else {
      if (result.multiplier == 0) result.multiplier = step.slope;
      closed[step.klass] = true;
    }
  }
  return result;
}

// A partial choice over the open classes seen so far. `penalty`: its Lagrangian loss against the bound.
struct State {
  double cost, error, penalty;
  int64_t parent;  // in the trail
  int32_t item;
};
struct Trail {
  int64_t parent;
  int32_t item;
};

class Search {
 public:
  Search(const Classes& classes, double budget, int64_t state_limit)
      : classes_(classes), budget_(budget), limit_(state_limit) {}

  KnapsackSolution run() {
    const Relaxation relaxation = relax(classes_, budget_);
    lambda_ = relaxation.multiplier;
    take_incumbent(relaxation.greedy);
    open_classes();
    expand();
    KnapsackSolution solution;
    solution.feasible = true;
    solution.choice.resize(classes_.size());
    for (size_t k = 0; k < classes_.size(); ++k) solution.choice[k] = classes_[k][best_[k]].index;
    solution.error = best_error_;
    solution.states = states_;
    solution.optimal = !cut_;
    solution.bound = cut_ ? std::min(bound_, best_error_) : best_error_;
    return solution;
  }

 private:
  double reduced(const Item& item) const { return item.error + lambda_ * item.cost; }

  void take_incumbent(const std::vector<size_t>& choice) {
    double error = 0;
    for (size_t k = 0; k < classes_.size(); ++k) error += classes_[k][choice[k]].error;
    if (error < best_error_) {
      best_error_ = error;
      best_ = choice;
    }
  }

  // Keeps, per class, the items that could still be part of a better solution than the incumbent.
  void open_classes() {
    bound_ = -lambda_ * budget_;
    base_.resize(classes_.size());
    std::vector<double> lowest(classes_.size());
    for (size_t k = 0; k < classes_.size(); ++k) {
      base_[k] = 0;
      for (size_t i = 1; i < classes_[k].size(); ++i)
        if (reduced(classes_[k][i]) < reduced(classes_[k][base_[k]])) base_[k] = i;
      lowest[k] = reduced(classes_[k][base_[k]]);
      bound_ += lowest[k];
    }
    const double slack = tolerance();
    struct Open {
      size_t klass;
      double gap;
      std::vector<size_t> items;
    };
    std::vector<Open> open;
    for (size_t k = 0; k < classes_.size(); ++k) {
      Open candidate{k, kInfinity, {}};
      for (size_t i = 0; i < classes_[k].size(); ++i) {
        const double penalty = reduced(classes_[k][i]) - lowest[k];
        if (bound_ + penalty >= best_error_ + slack && i != base_[k]) continue;
        candidate.items.push_back(i);
        if (i != base_[k]) candidate.gap = std::min(candidate.gap, penalty);
      }
      if (candidate.items.size() > 1) open.push_back(std::move(candidate));
    }
    // Tight classes first: their combinations give good incumbents early, and the wide ones prune at once.
    std::sort(open.begin(), open.end(), [](const Open& a, const Open& b) { return a.gap < b.gap; });
    for (Open& entry : open) {
      order_.push_back(entry.klass);
      items_.push_back(std::move(entry.items));
    }
    // What the classes still to come can save or must add in cost, for completing a state and for
    // feasibility.
    cheapest_after_.assign(order_.size() + 1, 0);
    for (size_t d = order_.size(); d-- > 0;) {
      const auto& items = classes_[order_[d]];
      double cheapest = kInfinity;
      for (const size_t i : items_[d])
        cheapest = std::min(cheapest, items[i].cost - items[base_[order_[d]]].cost);
      cheapest_after_[d] = cheapest_after_[d + 1] + cheapest;
    }
  }

  double tolerance() const { return 1e-13 * (std::abs(best_error_) + std::abs(bound_)); }

  // States hold differences against the base choice.
  void expand() {
    double base_cost = 0, base_error = 0;
    for (size_t k = 0; k < classes_.size(); ++k) {
      base_cost += classes_[k][base_[k]].cost;
      base_error += classes_[k][base_[k]].error;
    }
    std::vector<State> states{{base_cost, base_error, 0, -1, -1}};
    consider(states.front(), 0);
    std::vector<std::vector<State>> moved;
    for (size_t depth = 0; depth < order_.size(); ++depth) {
      const auto& items = classes_[order_[depth]];
      const Item& base = items[base_[order_[depth]]];
      const double least = reduced(base);
      const int64_t trail_begin = static_cast<int64_t>(trail_.size());
      for (const State& s : states) trail_.push_back({s.parent, s.item});
      moved.clear();
      for (const size_t i : items_[depth]) {
        std::vector<State> list;
        list.reserve(states.size());
        const double penalty = reduced(items[i]) - least;
        for (size_t s = 0; s < states.size(); ++s) {
          State next{states[s].cost + items[i].cost - base.cost,
                     states[s].error + items[i].error - base.error, states[s].penalty + penalty,
                     trail_begin + static_cast<int64_t>(s), static_cast<int32_t>(i)};
          if (bound_ + next.penalty >= best_error_ + tolerance()) continue;
          if (next.cost + cheapest_after_[depth + 1] > budget_) continue;
          consider(next, depth + 1);
          list.push_back(next);
        }
        moved.push_back(std::move(list));
      }
      states = merge(moved, depth + 1);
      states_ += static_cast<int64_t>(states.size());
      if (states.empty()) return;
      if (states_ > limit_) {
        cut_ = true;
        return;
      }
    }
  }

  // Pareto union of lists that are each sorted by cost.
  std::vector<State> merge(std::vector<std::vector<State>>& lists, size_t) const {
    std::vector<State> all;
    for (auto& list : lists) {
      const size_t middle = all.size();
      all.insert(all.end(), list.begin(), list.end());
      std::inplace_merge(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(middle), all.end(),
                         [](const State& a, const State& b) {
                           return std::tie(a.cost, a.error) < std::tie(b.cost, b.error);
                         });
    }
    std::vector<State> kept;
    for (const State& s : all)
      if ((kept.empty() || s.error < kept.back().error) && bound_ + s.penalty < best_error_ + tolerance())
        kept.push_back(s);
    return kept;
  }

  // The state with base items in every class still to come.
  void consider(const State& state, size_t depth) {
    if (state.cost > budget_ || state.error >= best_error_) return;
    best_error_ = state.error;
    best_ = base_;
    State at = state;
    for (size_t d = depth; d-- > 0;) {
      best_[order_[d]] = static_cast<size_t>(at.item);
      if (at.parent < 0) break;
      const Trail& step = trail_[static_cast<size_t>(at.parent)];
      at.parent = step.parent;
      at.item = step.item;
    }
  }

  const Classes& classes_;
  double budget_;
  int64_t limit_, states_ = 0;
  double lambda_ = 0, bound_ = 0, best_error_ = kInfinity;
  bool cut_ = false;
  std::vector<size_t> best_, base_, order_;
  std::vector<std::vector<size_t>> items_;
  std::vector<double> cheapest_after_;
  std::vector<Trail> trail_;
};

Classes prepare(const KnapsackClasses& classes) {
  Classes result;
  result.reserve(classes.size());
  for (const auto& items : classes) result.push_back(undominated(items));
  return result;
}

}  // namespace

KnapsackSolution solve_knapsack(const KnapsackClasses& classes, double budget, int64_t state_limit) {
  VALIDATE(!std::isnan(budget), "the budget is not a number");
  const Classes reduced = prepare(classes);
  double cheapest = 0, scale = 0;
  for (const auto& items : reduced) {
    cheapest += items.front().cost;
    scale += std::abs(items.back().cost);
  }
  const double allowed = budget + 1e-12 * std::max(std::abs(budget), scale);
  KnapsackSolution solution;
  if (cheapest > allowed) {
    solution.cost = cheapest;
    return solution;
  }
  solution = Search(reduced, allowed, state_limit).run();
  // Sums in class order, so that equal choices report equal values.
  solution.error = solution.cost = 0;
  for (size_t k = 0; k < classes.size(); ++k) {
    const KnapsackItem& item = classes[k][static_cast<size_t>(solution.choice[k])];
    solution.error += item.error;
    solution.cost += item.cost;
  }
  if (solution.optimal) solution.bound = solution.error;
  return solution;
}

Frontier knapsack_frontier(const KnapsackClasses& classes, size_t cap, int64_t samples) {
  const Classes reduced = prepare(classes);
  std::vector<FrontierPoint> points{{0, 0}};
  bool complete = true;
  double cheapest = 0, dearest = 0;
  for (const auto& items : reduced) {
    cheapest += items.front().cost;
    dearest += items.back().cost;
  }
  for (const auto& items : reduced) {
    std::vector<FrontierPoint> all;
    all.reserve(points.size() * items.size());
    for (const Item& item : items)
      for (const FrontierPoint& p : points) all.push_back({p.error + item.error, p.cost + item.cost});
    std::sort(all.begin(), all.end(), [](const FrontierPoint& a, const FrontierPoint& b) {
      return std::tie(a.cost, a.error) < std::tie(b.cost, b.error);
    });
    points.clear();
    for (const FrontierPoint& p : all)
      if (points.empty() || p.error < points.back().error) points.push_back(p);
    if (points.size() > cap) {
      complete = false;
      break;
    }
  }
  if (complete) return {std::move(points), true};
  points.clear();
  for (int64_t i = 0; i < samples; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(std::max<int64_t>(1, samples - 1));
    const KnapsackSolution s = solve_knapsack(classes, cheapest + share * (dearest - cheapest));
    if (s.feasible && (points.empty() || s.error < points.back().error)) points.push_back({s.error, s.cost});
  }
  return {std::move(points), false};
}

}  // namespace surgery
