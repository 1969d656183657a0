#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "recipe/config.h"
#include "recipe/knapsack.h"
#include "recipe/tables.h"

namespace surgery {

/// Which rate every block gets, with the proof (selection.json).
struct Selection {
  std::vector<Rate> rates;  ///< one per block
  double error = 0, cost = 0, budget = 0, bound = 0;
  bool optimal = false;
  std::string mode, column, budget_text;
  std::string fingerprint;  ///< of a run's: what it was chosen from; empty otherwise
  double softmax_cost = 0;  ///< the same column with every block at rate 1
  Frontier frontier;        ///< heterogeneous choices with the same pins; empty otherwise
};

/// Cost column of a row: "flops" or "milliseconds". Error{data} where milliseconds were not measured.
double table_cost(const TableRow& row, const std::string& column);

/// "1.2e12", "850G" (FLOPs or milliseconds, by column), "0.7" or "70%" (share of the all-softmax cost),
/// "15xR4" or "15xlinear" (the cost of a model with that many blocks at that rate). Error{usage} for anything
/// else.
double parse_budget(const std::string& text, const Tables& tables, const std::string& column);

/// "0=1,29=1": block = rate. Error{usage}.
std::map<int64_t, Rate> parse_pins(const std::string& text, int64_t blocks);

/// Selects by config.mode: exact knapsack (heterogeneous), lowest-error blocks at one rate (homogeneous), or
/// all softmax. Infeasible budgets throw Error{usage} naming the cheapest feasible one.
Selection select_rates(const Tables& tables, const SelectSection& config);

std::string selection_json(const Selection& selection);
/// Error{data} naming `where`; also when it is not for `blocks` blocks, if that is known.
Selection parse_selection(const std::string& json, const std::string& where,
                          std::optional<int64_t> blocks = {});

}  // namespace surgery
