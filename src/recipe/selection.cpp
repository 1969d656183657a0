#include "recipe/selection.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/text.h"
#include "recipe/budget.h"

namespace surgery {
namespace {

double softmax_cost(const Tables& tables, const std::string& column) {
  double sum = 0;
  for (int64_t b = 0; b < tables.blocks(); ++b) sum += table_cost(tables.at(b, Rate::full()), column);
  return sum;
}

void require_rate(const Tables& tables, int64_t block, Rate rate, const char* option) {
  if (std::ranges::none_of(tables.of_block(block), [&](const TableRow* row) { return row->rate == rate; }))
    fail_usage("{}: the tables have no rate {} for block {}: distil it or choose another rate", option,
               rate.name(), block);
}

// Cost of `count` blocks at one rate, the others softmax; blocks counted at their mean where costs differ.
double count_budget(int64_t count, Rate rate, const Tables& tables, const std::string& column) {
  const int64_t blocks = tables.blocks();
  if (count < 0 || count > blocks)
    fail_usage("select.budget: {} blocks at rate {}, but the model has {}", count, rate.name(), blocks);
  double saved = 0;
  for (int64_t b = 0; b < blocks; ++b) require_rate(tables, b, rate, "select.budget");
  for (int64_t b = 0; b < blocks; ++b)
    saved += table_cost(tables.at(b, Rate::full()), column) - table_cost(tables.at(b, rate), column);
  return softmax_cost(tables, column) - saved * static_cast<double>(count) / static_cast<double>(blocks);
}

// Rates a block may take, pins applied.
std::vector<std::vector<const TableRow*>> candidates(const Tables& tables,
                                                     const std::map<int64_t, Rate>& pins) {
  std::vector<std::vector<const TableRow*>> result;
  for (int64_t b = 0; b < tables.blocks(); ++b) {
    const auto pin = pins.find(b);
    if (pin != pins.end())
      result.push_back({&tables.at(b, pin->second)});
    else
      result.push_back(tables.of_block(b));
  }
  return result;
}

void heterogeneous(const Tables& tables, const SelectSection& config, const std::map<int64_t, Rate>& pins,
                   Selection& out) {
  const auto rows = candidates(tables, pins);
  KnapsackClasses classes;
  for (const auto& block : rows) {
    classes.emplace_back();
    for (const TableRow* row : block) classes.back().push_back({row->error, table_cost(*row, config.column)});
  }
  const KnapsackSolution solution = solve_knapsack(classes, out.budget);
  if (!solution.feasible)
    fail_usage(
        "select.budget: {} {} cannot be met{}: the cheapest choice costs {:.6g} ({:.4f} of all-softmax)",
        config.budget, config.column, pins.empty() ? "" : " with these pins", solution.cost,
        solution.cost / out.softmax_cost);
  for (size_t b = 0; b < rows.size(); ++b)
    out.rates.push_back(rows[b][static_cast<size_t>(solution.choice[b])]->rate);
  out.bound = solution.bound;
  out.optimal = solution.optimal;
  out.frontier = knapsack_frontier(classes);
}

// The n unpinned blocks of lowest error at one rate; ties by index. n given, or the fewest that meet the
// budget.
void homogeneous(const Tables& tables, const SelectSection& config, const std::map<int64_t, Rate>& pins,
                 Selection& out) {
  const Rate rate = Rate::parse(config.homogeneous_rate);
  require_rate(tables, 0, rate, "select.homogeneous_rate");
  std::vector<int64_t> order;
  for (int64_t b = 0; b < tables.blocks(); ++b) {
    const auto pin = pins.find(b);
    out.rates.push_back(pin == pins.end() ? Rate::full() : pin->second);
    if (pin == pins.end()) order.push_back(b);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return tables.at(a, rate).error < tables.at(b, rate).error; });
  const auto cost = [&] {
    double sum = 0;
    for (int64_t b = 0; b < tables.blocks(); ++b)
      sum += table_cost(tables.at(b, out.rates[static_cast<size_t>(b)]), config.column);
    return sum;
  };
  const double allowed = out.budget * (1 + 1e-12);
  if (config.homogeneous_blocks > static_cast<int64_t>(order.size()))
    fail_usage("select.homogeneous_blocks: {} asked for, but only {} blocks are not pinned",
               config.homogeneous_blocks, order.size());
  size_t taken = 0;
  const auto take = [&] { out.rates[static_cast<size_t>(order[taken++])] = rate; };
  if (config.homogeneous_blocks > 0) {
    while (static_cast<int64_t>(taken) < config.homogeneous_blocks) take();
    return;
  }
  while (cost() > allowed && taken < order.size()) take();
  if (cost() > allowed)
    fail_usage(
        "select.budget: {} cannot be met with every free block at rate {}: that costs {:.6g} ({:.4f} of "
        "all-softmax)",
        config.budget, rate.name(), cost(), cost() / out.softmax_cost);
}

}  // namespace

double table_cost(const TableRow& row, const std::string& column) {
  if (column == "flops") return row.flops;
  if (column != "milliseconds") fail_usage("select.column: '{}' is neither flops nor milliseconds", column);
  VALIDATE(row.milliseconds.has_value(),
           "the tables hold no milliseconds for block {} rate {}: make them with --cost.measure=milliseconds",
           row.block, row.rate.name());
  return *row.milliseconds;
}

double parse_budget(const std::string& text, const Tables& tables, const std::string& column) {
  const Budget budget = parse_budget(text);
  switch (budget.kind) {
    case Budget::Kind::blocks:
      return count_budget(budget.blocks, budget.rate, tables, column);
    case Budget::Kind::share:
      return budget.value * softmax_cost(tables, column);
    default:
      return budget.value;
  }
}

std::map<int64_t, Rate> parse_pins(const std::string& typed, int64_t blocks) {
  const std::string text = without_spaces(typed);
  std::map<int64_t, Rate> pins;
  for (const std::string& entry : text.empty() ? std::vector<std::string>() : split(text, ',')) {
    const auto sides = split(entry, '=');
    const int64_t block = parse_number<int64_t>(sides[0]).value_or(-1);
    if (sides.size() != 2 || block < 0 || block >= blocks)
      fail_usage("select.pins: '{}' is no pin: write BLOCK=RATE with a block of 0..{}", entry, blocks - 1);
    if (!pins.emplace(block, Rate::parse(sides[1])).second)
      fail_usage("select.pins: block {} is pinned twice", block);
  }
  return pins;
}

Selection select_rates(const Tables& tables, const SelectSection& config) {
  Selection selection;
  selection.mode = config.mode;
  selection.column = config.column;
  selection.budget_text = config.budget;
  selection.softmax_cost = softmax_cost(tables, config.column);
  selection.budget = parse_budget(config.budget, tables, config.column);
  const auto pins = parse_pins(config.pins, tables.blocks());
  for (const auto& [block, rate] : pins) require_rate(tables, block, rate, "select.pins");
  if (config.mode == "heterogeneous")
    heterogeneous(tables, config, pins, selection);
  else if (config.mode == "homogeneous")
    homogeneous(tables, config, pins, selection);
  else if (config.mode == "softmax")
    selection.rates.assign(static_cast<size_t>(tables.blocks()), Rate::full());
  else
    fail_usage("select.mode: '{}' is none of heterogeneous, homogeneous, softmax", config.mode);
  for (int64_t b = 0; b < tables.blocks(); ++b) {
    const TableRow& row = tables.at(b, selection.rates[static_cast<size_t>(b)]);
    selection.error += row.error;
    selection.cost += table_cost(row, config.column);
  }
  if (selection.mode != "heterogeneous") {
    // These are not optimised: what the exact solution could reach at their cost bounds them.
    KnapsackClasses classes;
    const bool control = config.mode == "softmax";  // pins hold for students
    for (const auto& block : candidates(tables, control ? std::map<int64_t, Rate>() : pins)) {
      classes.emplace_back();
      for (const TableRow* row : block)
        classes.back().push_back({row->error, table_cost(*row, config.column)});
    }
    const KnapsackSolution best = solve_knapsack(classes, selection.cost);
    selection.bound = best.feasible ? best.bound : selection.error;
    selection.optimal = best.feasible && best.optimal && selection.error <= best.error * (1 + 1e-12);
  } else if (selection.optimal) {
    selection.bound = selection.error;
  }
  return selection;
}

std::string selection_json(const Selection& selection) {
  nlohmann::ordered_json json;
  for (const Rate rate : selection.rates)
    json["rates"].push_back(rate.is_linear() ? nlohmann::ordered_json("linear")
                                             : nlohmann::ordered_json(rate.stride()));
  if (!selection.fingerprint.empty()) json["fingerprint"] = selection.fingerprint;
  json["error"] = selection.error;
  json["cost"] = selection.cost;
  json["budget"] = selection.budget;
  json["bound"] = selection.bound;
  json["optimal"] = selection.optimal;
  json["mode"] = selection.mode;
  json["column"] = selection.column;
  json["budget_text"] = selection.budget_text;
  json["softmax_cost"] = selection.softmax_cost;
  json["frontier_complete"] = selection.frontier.complete;
  json["frontier"] = nlohmann::ordered_json::array();
  for (const FrontierPoint& point : selection.frontier.points)
    json["frontier"].push_back({point.cost, point.error});
  // A line for every key: the frontier has many points.
  std::string text;
  for (const auto& [key, value] : json.items())
    text += fmt::format("{} {}: {}", text.empty() ? "{\n" : ",\n", nlohmann::json(key).dump(), value.dump());
  return text + "\n}\n";
}

Selection parse_selection(const std::string& text, const std::string& where, std::optional<int64_t> blocks) {
  try {
    const auto json = nlohmann::json::parse(text);
    Selection selection;
    for (const auto& rate : json.at("rates"))
      selection.rates.push_back(rate.is_string() ? Rate::parse(rate.get<std::string>())
                                                 : Rate::every(rate.get<int64_t>()));
    selection.error = json.at("error");
    selection.cost = json.at("cost");
    selection.budget = json.at("budget");
    selection.bound = json.at("bound");
    selection.optimal = json.at("optimal");
    selection.fingerprint = json.value("fingerprint", "");
    selection.mode = json.value("mode", "");
    selection.column = json.value("column", "flops");
    selection.budget_text = json.value("budget_text", "");
    selection.softmax_cost = json.value("softmax_cost", 0.0);
    selection.frontier.complete = json.value("frontier_complete", false);
    for (const auto& point : json.value("frontier", nlohmann::json::array()))
      selection.frontier.points.push_back({point.at(1), point.at(0)});
    VALIDATE(!blocks || std::ssize(selection.rates) == *blocks, "{} rates for a model of {} blocks",
             selection.rates.size(), *blocks);
    return selection;
  } catch (const nlohmann::json::exception& error) {
    fail_data("{}: not a selection ({}): make it again", where, error.what());
  } catch (const Error& error) {
    fail_data("{}: not a selection ({}): make it again", where, error.what());
  }
}

}  // namespace surgery
