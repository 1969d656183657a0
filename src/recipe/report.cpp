// Stage 10: what happened, on one self-contained page.
#include <algorithm>

#include "base/errors.h"
#include "base/log.h"
#include "recipe/artifact.h"
#include "recipe/block_file.h"
#include "recipe/evaluation.h"
#include "recipe/ledger.h"
#include "recipe/run_status.h"
#include "report/chart.h"
#include "report/html.h"
#include "report/text.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr int64_t kMostVideoRows = 8;

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}

/// What is there of a run; an unfinished one lacks some.
struct Inputs {
  Recipe& recipe;
  std::vector<StageStatus> stages = {};  ///< but the report's own
  std::string missing = {};              ///< in words; empty for a finished run
  std::optional<Tables> tables = {};
  std::optional<Selection> selection = {};
  std::optional<Evaluation> evaluation = {};
  std::vector<BlockState> blocks = {};
  int64_t blocks_wanted = 0;
};

/// Reads one file, or says that the page is made without it: a report is wanted most of runs where something
/// is damaged or gone. The stage that needs such a file sets it aside.
template <class Read>
auto read_or_warn(const Read& read) -> std::optional<decltype(read())> {
  try {
    return read();
  } catch (const Error& error) {
    if (error.code() != ExitCode::data && error.code() != ExitCode::io) throw;
    log_warning("report: goes on without this: {}", error.what());
    return {};
  }
}

template <class Read>
auto read_if_there(const std::filesystem::path& path, const Read& read)
    -> std::optional<decltype(read(path))> {
  if (!std::filesystem::exists(path)) return {};
  return read_or_warn([&] { return read(path); });
}

/// What is there by name but cannot be read is as good as missing.
void count_as_missing(Inputs& in, const std::string& stage) {
  for (StageStatus& status : in.stages)
    if (status.stage == stage) status.exists = 0;
}

Inputs read_inputs(Recipe& recipe) {
  const RunDirectory& run = recipe.run;
  Inputs in{.recipe = recipe};
  const auto teacher = read_or_warn([&] { return recipe.teacher_config(); });
  std::optional<int64_t> blocks;
  if (teacher) blocks = teacher->num_layers;
  // What is missing is asked before anything is read: what a running job adds meanwhile is only read.
  in.stages = run_status(recipe.config, blocks);
  std::erase_if(in.stages, [](const StageStatus& stage) { return stage.stage == "report"; });
  in.tables = read_if_there(run.tables_h5(), read_tables);
  in.selection = read_if_there(run.selection(), [&](const std::filesystem::path& path) {
    return parse_selection(read_file(path), path.string(), blocks);
  });
  in.evaluation = read_if_there(run.evaluation(), read_evaluation);
  if (!blocks && in.tables) blocks = in.tables->blocks();
  if (!blocks && in.selection) blocks = std::ssize(in.selection->rates);
  if (!teacher && blocks)
    for (StageStatus& stage : in.stages)
      if (stage.stage == "distill") stage.wanted = blocks;
  in.blocks_wanted = blocks.value_or(0);
  if (!in.tables) count_as_missing(in, "tables");
  if (!in.selection) count_as_missing(in, "select");
  if (!in.evaluation) count_as_missing(in, "evaluate");
  in.missing = missing_text(in.stages);
  return in;
}

/// All blocks that can be read. Called where a page is made: they are large.
void read_blocks(Inputs& in) {
  int64_t damaged = 0;
  for (int64_t b = 0; b < in.blocks_wanted; ++b) {
    const auto path = in.recipe.run.block(b);
    if (!std::filesystem::exists(path)) continue;
    if (auto block = read_if_there(path, read_block))
      in.blocks.push_back(std::move(*block));
    else
      ++damaged;
  }
  if (damaged == 0) return;
  for (StageStatus& stage : in.stages)
    if (stage.stage == "distill") stage.exists = std::ranges::count_if(in.blocks, &BlockState::done);
  in.missing = missing_text(in.stages);
}

void add_stages(Page& page, const Inputs& in) {
  if (in.missing.empty()) return;
  page.section("This run is not finished");
  page.notice(fmt::format("Missing: {}. 'surgery run' with the same configuration makes what is missing.",
                          in.missing));
  Table table;
  table.columns = {{"stage", false}, {"there", true}, {"unit", false}, {"made by", false}};
  for (const StageStatus& stage : in.stages)
    table.rows.push_back({stage.stage, stage.count(), stage.unit,
                          stage.complete() ? "" : fmt::format("surgery {}", stage.command)});
  table.caption = "What is there, by name; a command is named where something is missing.";
  page.table(table);
}

std::vector<Rate> table_rates(const Tables& tables) {
  std::vector<Rate> rates;
  for (const TableRow* row : tables.of_block(0)) rates.push_back(row->rate);
  return rates;
}

void add_summary(Page& page, const Inputs& in) {
  std::vector<Tile> tiles;
  if (in.selection) {
    const Selection& s = *in.selection;
    const auto hybrid = std::ranges::count_if(s.rates, [](const Rate rate) { return !rate.is_full(); });
    tiles.push_back({"attention cost", percent(s.cost / s.softmax_cost), "of all-softmax, " + s.column});
    tiles.push_back({"hybrid blocks", fmt::format("{} of {}", hybrid, s.rates.size()), s.mode});
  }
  if (in.evaluation) {
    const VariantScore& last = in.evaluation->variants.back();
    tiles.push_back(
        {"latent error", fmt::format("{:.3f}", last.latent_error), "student against teacher, same noise"});
  }
  if (in.evaluation && in.evaluation->variants.back().has_shapes) {
    const auto tile = [](const char* label, const VariantScore& s) {
      const Proportion i = s.shapes.clip_interval();
      return Tile{label, percent(s.shapes.clip_share()),
                  fmt::format("all four attributes; 95 %: {:.1f} to {:.1f}", 100 * i.low, 100 * i.high)};
    };
    tiles.push_back(tile("teacher's score", in.evaluation->variants.front()));
    tiles.push_back(tile("student's score", in.evaluation->variants.back()));
  }
  if (!tiles.empty()) page.tiles(tiles);
}

/// Errors of every block and rate, relative to the teacher's output; the selected ones framed.
HeatTable error_table(const Inputs& in) {
  const std::vector<Rate> rates = table_rates(*in.tables);
  HeatTable heat;
  heat.corner = "block";
  for (const Rate rate : rates)
    if (!rate.is_full()) heat.columns.push_back(rate.is_linear() ? "linear" : "R" + rate.name());
  for (int64_t b = 0; b < in.tables->blocks(); ++b) {
    heat.rows.push_back(std::to_string(b));
    heat.values.emplace_back();
    double scale = 0;
    const auto& scales = in.blocks[static_cast<size_t>(b)].teacher_scale;
    for (const double value : scales) scale += value / static_cast<double>(scales.size());
    for (const Rate rate : rates) {
      if (rate.is_full()) continue;
      if (in.selection && in.selection->rates[static_cast<size_t>(b)] == rate)
        heat.marked.emplace_back(b, static_cast<int64_t>(heat.values.back().size()));
      heat.values.back().push_back(in.tables->at(b, rate).error / scale);
    }
  }
  heat.scale = Scale::logarithmic;
  return heat;
}

Plot frontier_plot(const Selection& s) {
  Plot frontier;
  frontier.x.label = "attention cost, share of all-softmax";
  frontier.y.label = "sum of block errors";
  Series line;
  line.name = s.frontier.complete ? "exact frontier" : "exact optima (sampled budgets)";
  for (const FrontierPoint& point : s.frontier.points) {
    line.x.push_back(point.cost / s.softmax_cost);
    line.y.push_back(point.error);
  }
  Series chosen;
  chosen.name = "this model";
  chosen.mark = Series::Mark::points;
  chosen.x = {s.cost / s.softmax_cost};
  chosen.y = {s.error};
  if (!line.x.empty()) frontier.series.push_back(line);
  frontier.series.push_back(chosen);
  return frontier;
}

void add_selection(Page& page, const Inputs& in) {
  std::vector<std::pair<std::string, std::string>> figures;
  // The errors are relative to what the blocks have measured: a block that is made again has not yet.
  if (in.tables && std::ssize(in.blocks) == in.tables->blocks() &&
      std::ranges::all_of(in.blocks, [](const BlockState& block) { return block.done; }))
    figures.emplace_back(heat_table_html(error_table(in)),
                         "Held-out error of every block and rate, relative to the teacher's mean absolute "
                         "output; framed: the selected rates.");
  if (!in.selection && figures.empty()) return;
  page.section("Rates");
  if (in.selection) {
    const Selection& s = *in.selection;
    page.text(fmt::format(
        "Budget {}: {} of {} {} ({} of all-softmax attention). Predicted error {}; {}.", s.budget_text,
        format_number(s.cost), format_number(s.softmax_cost), s.column, percent(s.cost / s.softmax_cost),
        format_number(s.error),
        s.optimal ? "proven optimal (bound equals value)"
                  : fmt::format("the exact optimum at this cost is bounded by {}", format_number(s.bound))));
    figures.emplace_back(plot_svg(frontier_plot(s)),
                         s.frontier.complete ? "Error against cost: every optimal choice."
                                             : "Error against cost: optima at sampled budgets (the whole "
                                               "frontier has more points than are listed).");
  }
  page.figures(figures);
}

/// Mean over the blocks that have come as far as an update.
Series loss_series(const std::vector<BlockState>& blocks, size_t r) {
  Series series;
  const Rate rate = blocks.front().rates[r].rate;
  series.name = rate.is_linear() ? "linear" : "R" + rate.name();
  size_t updates = 0;
  for (const BlockState& block : blocks) updates = std::max(updates, block.rates[r].losses.size());
  const size_t stride = std::max<size_t>(1, updates / 200);
  for (size_t u = 0; u < updates; u += stride) {
    double sum = 0;
    int64_t count = 0;
    for (const BlockState& block : blocks)
      if (u < block.rates[r].losses.size()) sum += block.rates[r].losses[u], ++count;
    series.x.push_back(static_cast<double>(u + 1));
    series.y.push_back(sum / static_cast<double>(count));
  }
  return series;
}

/// Attention divides by n_i: where it comes near zero, or below with signed features, a block is unstable.
Table normalizer_table(const std::vector<BlockState>& blocks) {
  Table table;
  table.columns = {{"rate", false}, {"smallest n", true}, {"in block", true}};
  for (size_t r = 0; r < blocks.front().rates.size(); ++r) {
    const auto least = std::ranges::min_element(
        blocks, {}, [&](const BlockState& block) { return block.rates[r].smallest_normalizer; });
    const RateState& rate = least->rates[r];
    table.rows.push_back({rate.rate.is_linear() ? "linear" : "R" + rate.rate.name(),
                          format_number(rate.smallest_normalizer), std::to_string(least->block)});
  }
  table.caption = "The smallest normalizer n of Eq. 5 over the held-out samples; attention divides by it.";
  return table;
}

void add_distillation(Page& page, const Inputs& in) {
  if (in.blocks.empty()) return;
  page.section("Distillation");
  Plot plot;
  plot.x.label = "update";
  plot.y.label = "value loss, mean over blocks";
  plot.y.scale = Scale::logarithmic;
  for (size_t r = 0; r < in.blocks.front().rates.size(); ++r)
    if (Series series = loss_series(in.blocks, r); !series.x.empty())
      plot.series.push_back(std::move(series));
  if (plot.series.empty())
    page.text("The feature maps were not trained (no linear branch).");
  else
    page.figure(plot_svg(plot), "Training loss of the feature maps, each block alone.");
  if (std::ranges::all_of(in.blocks, &BlockState::done)) page.table(normalizer_table(in.blocks));
}

void add_finetuning(Page& page, const Inputs& in) {
  // A resumed run writes some iterations again: the last counts.
  std::map<int64_t, double> losses, validations;
  for (const auto& line : read_json_lines(in.recipe.run.metrics())) {
    if (line.value("stage", "") != "finetune") continue;
    const auto iteration = line.value("iteration", int64_t{0});
    const auto add = [&](const char* name, std::map<int64_t, double>& to) {
      if (line.contains(name) && line[name].is_number()) to[iteration] = line[name].get<double>();
    };
    add("loss", losses);  // null is what is not finite
    add("validation_loss", validations);
  }
  if (losses.empty()) return;
  page.section("Finetuning");
  Plot plot;
  plot.x.label = "iteration";
  plot.y.label = "flow-matching loss";
  const auto series_of = [](const char* name, const std::map<int64_t, double>& by_iteration) {
    Series series;
    series.name = name;
    for (const auto& [iteration, loss] : by_iteration) {
      series.x.push_back(static_cast<double>(iteration));
      series.y.push_back(loss);
    }
    return series;
  };
  Series raw = series_of("loss", losses), smooth = raw;
  raw.mark = Series::Mark::points;
  smooth.name = "running mean";
  for (size_t i = 1; i < smooth.y.size(); ++i) smooth.y[i] = 0.95 * smooth.y[i - 1] + 0.05 * raw.y[i];
  plot.series = {raw, smooth};
  std::string caption =
      fmt::format("{} of {} iterations, global batch {}.", losses.rbegin()->first,
                  in.recipe.config.finetune.iterations, in.recipe.config.finetune.global_batch);
  if (!validations.empty()) {
    plot.series.push_back(series_of("validation", validations));
    caption += fmt::format(" Validation: {} clips that are not trained on, at fixed noise and levels.",
                           in.recipe.config.finetune.validation_clips);
  }
  page.figure(plot_svg(plot), caption);
}

void add_evaluation(Page& page, const Inputs& in) {
  if (!in.evaluation) return;
  page.section("Evaluation");
  const bool shapes = in.evaluation->variants.front().has_shapes;
  Table table;
  table.columns = {{"model", false}, {"clips", true}, {"latent error", true}, {"PSNR, dB", true}};
  if (shapes)
    for (const char* name : {"all four", "95 % interval", "background", "colour", "outline", "direction"})
      table.columns.push_back({name, true});
  const auto add = [&](const VariantScore& s) {
    const bool teacher = s.variant == "teacher";
    std::vector<std::string> row{s.variant, std::to_string(s.clips),
                                 teacher ? "0" : fmt::format("{:.4f}", s.latent_error),
                                 teacher ? "–" : fmt::format("{:.2f}", s.psnr)};
    if (shapes) {
      const Proportion i = s.shapes.clip_interval();
      row.push_back(percent(s.shapes.clip_share()));
      row.push_back(fmt::format("{:.1f} to {:.1f}", 100 * i.low, 100 * i.high));
      for (size_t a = 0; a < s.shapes.right.size(); ++a) row.push_back(percent(s.shapes.attribute_share(a)));
    }
    table.rows.push_back(std::move(row));
  };
  for (const VariantScore& s : in.evaluation->variants) add(s);
  if (const auto& mean = in.evaluation->average) {
    std::vector<std::string> row{fmt::format("mean of {} checkpoints", mean->checkpoints),
                                 std::to_string(mean->clips), fmt::format("{:.4f}", mean->latent_error),
                                 fmt::format("{:.2f}", mean->psnr)};
    if (shapes) {
      row.push_back(percent(mean->clip_share));
      row.push_back("");
      for (const double share : mean->attribute_share) row.push_back(percent(share));
    }
    table.rows.push_back(std::move(row));
  }
  table.caption = "Every model starts from the same noise; errors are against the teacher's clips.";
  page.table(table);
}

/// The first prompts' clips, of the teacher, the distilled student and the last one finetuned, as far as they
/// are there.
void add_clips(Page& page, const Inputs& in) {
  const Config& config = in.recipe.config;
  std::vector<std::string> variants = sample_variants(config);
  const std::string last = variants.back();
  std::erase_if(variants, [&](const std::string& variant) {
    const auto samples = in.recipe.run.samples(variant);
    return (variant_iteration(variant) && variant != last) || !std::filesystem::exists(samples) ||
           std::filesystem::is_empty(samples);
  });
  if (variants.empty()) return;
  const GenerateSection& g = config.generate;
  const auto prompts = read_or_warn([&] { return recipe_prompts(g.prompts, g.count, "generate.prompts"); });
  if (!prompts) return;
  page.section("Clips");
  const auto names = video_names(*prompts, g.samples);
  std::vector<VideoRow> rows;
  for (int64_t i = 0; i < std::min<int64_t>(kMostVideoRows, std::ssize(*prompts)); ++i) {
    VideoRow row;
    row.title = (*prompts)[static_cast<size_t>(i)].name;
    for (const std::string& variant : variants) {
      const auto path = video_folder(config, variant) / names[static_cast<size_t>(i * g.samples)];
      row.cells.push_back({variant, std::filesystem::exists(path) ? read_file(path) : std::string()});
    }
    rows.push_back(std::move(row));
  }
  page.videos(rows);
}

void add_ledger(Page& page, const Inputs& in) {
  page.section("Ledger");
  page.table(ledger_table(in.recipe.run.ledger()));
  page.fold("Configuration", read_file(in.recipe.run.config()));
}

/// What the page of a finished run is derived from; the ledger grows with it and does not count.
std::string report_fingerprint(const Inputs& in) {
  return make_fingerprint({"report-2", in.evaluation->fingerprint, selection_json(*in.selection),
                           hash_file(in.recipe.run.tables_h5()), read_file(in.recipe.run.config())});
}

bool holds(const std::filesystem::path& path, const std::string& text) {
  return std::filesystem::exists(path) && read_file(path).find(text) != std::string::npos;
}

}  // namespace

bool make_report(Recipe& recipe) {
  StageTimer timer(recipe, "report", true);
  int64_t made = 0;
  if (recipe.session.rank() == 0) {
    Inputs in = read_inputs(recipe);
    // The page of an unfinished run carries no stamp and is always made again.
    const std::string stamp = in.missing.empty() ? report_stamp(report_fingerprint(in)) + "\n" : "";
    if (stamp.empty() || !holds(recipe.run.report(), stamp)) {
      read_blocks(in);
      Page page("Attention surgery", fmt::format("{} — teacher {}", recipe.run.root().filename().string(),
                                                 recipe.config.model.path));
      for (const auto& add : {add_stages, add_summary, add_selection, add_distillation, add_finetuning,
                              add_evaluation, add_clips, add_ledger})
        add(page, in);
      write_file(recipe.run.report(),
                 page.html() + (in.missing.empty() ? stamp : ""));  // a block may be damaged
      made = 1;
    }
    log_info("report: {}", recipe.run.report().string());
    if (!in.missing.empty())
      log_info(
          "report: the run is not finished, missing: {}: 'surgery run' with the same configuration continues",
          in.missing);
  }
  recipe.session.world().barrier();
  timer.done(made, 1 - made);
  return true;
}

}  // namespace surgery
