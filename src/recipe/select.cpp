// Stages 3 and 4: error and cost tables, gathered on rank 0 from the blocks' files, and the choice of rates.
#include <algorithm>

#include "attention/cost_model.h"
#include "base/errors.h"
#include "base/log.h"
#include "recipe/artifact.h"
#include "recipe/attention_timing.h"
#include "recipe/distill_set.h"
#include "recipe/plan.h"
#include "recipe/selection.h"
#include "recipe/student.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr double kSmallNormalizer = 1e-6;

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

CostGeometry attention_geometry(Recipe& recipe) {
  const CostSection& cost = recipe.config.cost;
  // Self-attention sees no text.
  return cost_geometry(recipe.teacher_config(), 0, cost.frames, cost.height, cost.width);
}

/// Full attention, then what is distilled.
std::vector<Rate> table_rates(const DistillPlan& plan) {
  std::vector<Rate> rates = plan.rates;
  rates.insert(rates.begin(), Rate::full());
  return rates;
}

/// Every block and rate with its FLOPs; the errors are 0.
Tables cost_tables(Recipe& recipe, const DistillPlan& plan) {
  const CostGeometry geometry = attention_geometry(recipe);
  Tables tables;
  for (int64_t b = 0; b < geometry.blocks; ++b)
    for (const Rate rate : table_rates(plan)) {
      TableRow row;
      row.block = b;
      row.rate = rate;
      row.flops = attention_core_flops(geometry, plan.feature_map, rate);
      tables.rows.push_back(row);
    }
  return tables;
}

Tables build_tables(Recipe& recipe, const DistillPlan& plan) {
  const CostGeometry geometry = attention_geometry(recipe);
  const std::vector<Rate> rates = table_rates(plan);
  std::vector<std::optional<double>> milliseconds(rates.size());
  if (recipe.config.cost.measure == "milliseconds")
    for (size_t r = 0; r < rates.size(); ++r)
      milliseconds[r] = time_attention(geometry, plan.feature_map, rates[r], plan.stabilizer, recipe.device,
                                       recipe.precision().dtype);
  Tables tables = cost_tables(recipe, plan);
  const std::string expected = distill_fingerprint(recipe);
  auto row = tables.rows.begin();
  for (int64_t b = 0; b < geometry.blocks; ++b) {
    const BlockState block = read_distilled(recipe, b, expected);
    for (const RateState& rate : block.rates)
      if (rate.smallest_normalizer < kSmallNormalizer)
        log_warning("block {} at rate {}: a normalizer n_i of {:.3g} was seen; attention divides by it", b,
                    rate.rate.name(), rate.smallest_normalizer);
    for (size_t r = 0; r < rates.size(); ++r, ++row) {
      if (!rates[r].is_full()) row->error = mean(block.at(rates[r]).held_out);
      row->milliseconds = milliseconds[r];
    }
  }
  return tables;
}

/// What the tables depend on. Collective on first use.
std::string tables_fingerprint_of(Recipe& recipe) {
  const CostSection& cost = recipe.config.cost;
  // Times hold for what they were measured on.
  const std::string timed = cost.measure == "milliseconds"
                                ? fmt::format("{} {}", recipe.device.is_cuda() ? "cuda" : "cpu",
                                              at::toString(recipe.precision().dtype))
                                : "";
  return make_fingerprint({"tables-2", distill_fingerprint(recipe), timed,
                           fmt::format("{} {} {} {}", cost.frames, cost.height, cost.width, cost.measure)});
}

}  // namespace

void check_selection(Recipe& recipe) {
  const SelectSection& select = recipe.config.select;
  // Milliseconds are known once they are measured.
  if (select.column == "flops") select_rates(cost_tables(recipe, recipe_distill_plan(recipe)), select);
}

std::string selection_fingerprint(Recipe& recipe) {
  const SelectSection& s = recipe.config.select;
  return make_fingerprint({"select-1", tables_fingerprint_of(recipe), s.budget, s.pins, s.mode,
                           s.homogeneous_rate, fmt::format("{} {}", s.homogeneous_blocks, s.column)});
}

bool make_tables(Recipe& recipe) {
  StageTimer timer(recipe, "tables");
  const DistillPlan plan = recipe_distill_plan(recipe);
  const std::string fingerprint = tables_fingerprint_of(recipe);
  int64_t made = 0;
  if (recipe.session.rank() == 0) {
    // Cheap and derived: made again whenever its inputs changed.
    std::string found;
    if (std::filesystem::exists(recipe.run.tables_h5()) && std::filesystem::exists(recipe.run.tables_csv()))
      try {
        found = tables_fingerprint(recipe.run.tables_h5());
      } catch (const Error& error) {
        set_aside(recipe.run.tables_h5(), error.what());
      }
    if (found != fingerprint) {
      const Tables tables = build_tables(recipe, plan);
      write_file(recipe.run.tables_csv(), tables_csv(tables));
      write_tables_h5(recipe.run.tables_h5(), tables, fingerprint);
      made = 1;
    }
  }
  recipe.session.world().barrier();
  timer.done(made, 1 - made);
  return true;
}

bool make_selection(Recipe& recipe) {
  StageTimer timer(recipe, "select");
  const std::string tables = tables_fingerprint_of(recipe), fingerprint = selection_fingerprint(recipe);
  int64_t made = 0;
  if (recipe.session.rank() == 0) {
    require_file(recipe.run.tables_h5(), "tables");
    require_fingerprint(recipe.run.tables_h5(), tables_fingerprint(recipe.run.tables_h5()), tables, "tables");
    Selection selection = select_rates(read_tables(recipe.run.tables_h5()), recipe.config.select);
    selection.fingerprint = fingerprint;
    const std::string json = selection_json(selection);
    if (!std::filesystem::exists(recipe.run.selection()) || read_file(recipe.run.selection()) != json) {
      write_file(recipe.run.selection(), json);
      made = 1;
    }
    std::string rates;
    for (const Rate rate : selection.rates) rates += (rates.empty() ? "" : " ") + rate.name();
    if (recipe.config.select.mode != "softmax" && std::ranges::all_of(selection.rates, &Rate::is_full))
      log_warning(
          "no block was converted: the budget {} is met by softmax everywhere (at cost.frames, height and "
          "width "
          "of {} x {} x {} the rates may cost more than softmax)",
          recipe.config.select.budget, recipe.config.cost.frames, recipe.config.cost.height,
          recipe.config.cost.width);
    log_info("selected rates ({}, {} of all-softmax attention{}): {}", selection.mode,
             fmt::format("{:.1f} %", 100 * selection.cost / selection.softmax_cost),
             selection.optimal ? ", proven optimal" : "", rates);
  }
  recipe.session.world().barrier();
  timer.done(made, 1 - made);
  return true;
}

}  // namespace surgery
