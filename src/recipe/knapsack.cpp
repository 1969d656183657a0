#include "recipe/knapsack.h"

#include <algorithm>
#include <array>
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

// A partial choice over one side's classes, as differences against the base items. `penalty`: its Lagrangian
// loss against the bound.
struct State {
  double cost, error, penalty;
  int64_t parent;  // in the side's trail
  int32_t item;
};
struct Trail {
  int64_t parent;
  int32_t item;
};

// An open class: the items that a better solution than the incumbent could still hold.
struct OpenClass {
  size_t klass;
  double gap;  // least penalty of an item other than the base
  std::vector<size_t> items;
};

// Half of the open classes, tight ones first, and the Pareto states over those that were expanded: cost
// ascending, error strictly descending.
struct Side {
  std::vector<OpenClass> classes;
  size_t expanded = 0;
  std::vector<State> states{{0, 0, 0, -1, -1}};
  std::vector<Trail> trail;
};

// The open classes are dealt to two sides. A better solution's penalty is under the incumbent's gap, so each
// side's part of it is too: every side keeps what stays under the gap, and one sweep over both lists finds
// their best pair. Lists as long as the square root of a single one's hold the same solutions (Horowitz and
// Sahni 1974).
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
  double tolerance() const { return 1e-13 * (std::abs(best_error_) + std::abs(bound_)); }
  bool hopeless(double penalty) const { return bound_ + penalty >= best_error_ + tolerance(); }

  void take_incumbent(const std::vector<size_t>& choice) {
    double error = 0;
    for (size_t k = 0; k < classes_.size(); ++k) error += classes_[k][choice[k]].error;
    if (error < best_error_) {
      best_error_ = error;
      best_ = choice;
    }
  }

  void open_classes() {
    bound_ = -lambda_ * budget_;
    base_.resize(classes_.size());
    for (size_t k = 0; k < classes_.size(); ++k) {
      base_[k] = 0;
      for (size_t i = 1; i < classes_[k].size(); ++i)
        if (reduced(classes_[k][i]) < reduced(classes_[k][base_[k]])) base_[k] = i;
      const Item& base = classes_[k][base_[k]];
      bound_ += reduced(base);
      base_cost_ += base.cost;
      base_error_ += base.error;
    }
    std::vector<OpenClass> open;
    for (size_t k = 0; k < classes_.size(); ++k) {
      OpenClass candidate{k, kInfinity, {}};
      for (size_t i = 0; i < classes_[k].size(); ++i) {
        const double penalty = reduced(classes_[k][i]) - reduced(classes_[k][base_[k]]);
        if (i != base_[k] && hopeless(penalty)) continue;
        candidate.items.push_back(i);
        if (i != base_[k]) candidate.gap = std::min(candidate.gap, penalty);
      }
      if (candidate.items.size() > 1) open.push_back(std::move(candidate));
    }
    // Tight classes first: their combinations give good incumbents early, and the wide ones prune at once.
    std::sort(open.begin(), open.end(), [](const OpenClass& a, const OpenClass& b) { return a.gap < b.gap; });
    for (size_t i = 0; i < open.size(); ++i) sides_[i % 2].classes.push_back(std::move(open[i]));
  }

  void expand() {
    best_pair();
    while (!cut_) {
      Side& side = sides_[0].expanded <= sides_[1].expanded && sides_[0].expanded < sides_[0].classes.size()
                       ? sides_[0]
                       : sides_[1];
      if (side.expanded == side.classes.size()) return;
      expand(side);
      states_ += static_cast<int64_t>(side.states.size());
      best_pair();
      cut_ = states_ > limit_;
    }
  }

  void expand(Side& side) {
    const OpenClass& open = side.classes[side.expanded++];
    const auto& items = classes_[open.klass];
    const Item& base = items[base_[open.klass]];
    const int64_t trail_begin = static_cast<int64_t>(side.trail.size());
    for (const State& s : side.states) side.trail.push_back({s.parent, s.item});
    std::vector<State> all;
    for (const size_t i : open.items) {
      const double penalty = reduced(items[i]) - reduced(base);
      const auto middle = static_cast<std::ptrdiff_t>(all.size());
      for (size_t s = 0; s < side.states.size(); ++s) {
        const State& from = side.states[s];
        if (!hopeless(from.penalty + penalty))
          all.push_back({from.cost + items[i].cost - base.cost, from.error + items[i].error - base.error,
                         from.penalty + penalty, trail_begin + static_cast<int64_t>(s),
                         static_cast<int32_t>(i)});
      }
      std::inplace_merge(all.begin(), all.begin() + middle, all.end(), [](const State& a, const State& b) {
        return std::tie(a.cost, a.error) < std::tie(b.cost, b.error);
      });
    }
    side.states.clear();
    for (const State& s : all)
      if (side.states.empty() || s.error < side.states.back().error) side.states.push_back(s);
  }

  // The best pair of states within the budget; classes not yet expanded keep their base items.
  void best_pair() {
    const auto &a = sides_[0].states, &b = sides_[1].states;
    const State *first = nullptr, *second = nullptr;
    size_t end = b.size();  // of the states of b that fit beside a's
    for (const State& s : a) {
      while (end > 0 && base_cost_ + s.cost + b[end - 1].cost > budget_) --end;
      if (end == 0) break;
      if (base_error_ + s.error + b[end - 1].error >= best_error_) continue;
      first = &s;
      second = &b[end - 1];
      best_error_ = base_error_ + first->error + second->error;
    }
    if (first == nullptr) return;
    best_ = base_;
    take_choice(sides_[0], *first);
    take_choice(sides_[1], *second);
  }

  void take_choice(const Side& side, State at) {
    for (size_t d = side.expanded; d-- > 0;) {
      best_[side.classes[d].klass] = static_cast<size_t>(at.item);
      const Trail& step = side.trail[static_cast<size_t>(at.parent)];
      at.parent = step.parent;
      at.item = step.item;
    }
  }

  const Classes& classes_;
  double budget_;
  int64_t limit_, states_ = 0;
  double lambda_ = 0, bound_ = 0, best_error_ = kInfinity, base_cost_ = 0, base_error_ = 0;
  bool cut_ = false;
  std::vector<size_t> best_, base_;
  std::array<Side, 2> sides_;
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
