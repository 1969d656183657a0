// Stage 10: what happened, on one self-contained page.
#include <algorithm>
#include <sstream>

#include "base/errors.h"
#include "base/log.h"
#include "recipe/artifact.h"
#include "recipe/block_file.h"
#include "recipe/evaluation.h"
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

std::vector<nlohmann::json> read_lines(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  if (!std::filesystem::exists(path)) return lines;
  std::istringstream stream(read_file(path));
  for (std::string line; std::getline(stream, line);) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_discarded()) lines.push_back(std::move(json));  // a killed writer may leave half a line
  }
  return lines;
}

struct Inputs {
  Recipe& recipe;
  Tables tables;
  Selection selection;
  Evaluation evaluation;
  std::vector<BlockState> blocks;
};

std::vector<Rate> table_rates(const Tables& tables) {
  std::vector<Rate> rates;
  for (const TableRow* row : tables.of_block(0)) rates.push_back(row->rate);
  return rates;
}

void add_summary(Page& page, const Inputs& in) {
  const VariantScore& last = in.evaluation.variants.back();
  const VariantScore& teacher = in.evaluation.variants.front();
  int64_t hybrid = 0;
  for (const Rate rate : in.selection.rates) hybrid += rate.is_full() ? 0 : 1;
  std::vector<Tile> tiles{
      {"attention cost", percent(in.selection.cost / in.selection.softmax_cost),
       "of all-softmax, " + in.selection.column},
      {"hybrid blocks", fmt::format("{} of {}", hybrid, in.selection.rates.size()), in.selection.mode},
      {"latent error", fmt::format("{:.3f}", last.latent_error), "student against teacher, same noise"}};
  if (last.has_shapes) {
    const auto tile = [](const char* label, const VariantScore& s) {
      const Proportion i = s.shapes.clip_interval();
      return Tile{label, percent(s.shapes.clip_share()),
                  fmt::format("all four attributes; 95 %: {:.1f} to {:.1f}", 100 * i.low, 100 * i.high)};
    };
    tiles.push_back(tile("teacher's score", teacher));
    tiles.push_back(tile("student's score", last));
  }
  page.tiles(tiles);
}

void add_selection(Page& page, const Inputs& in) {
  page.section("Rates");
  const Selection& s = in.selection;
  page.text(fmt::format(
      "Budget {}: {} of {} {} ({} of all-softmax attention). Predicted error {}; {}.", s.budget_text,
      format_number(s.cost), format_number(s.softmax_cost), s.column, percent(s.cost / s.softmax_cost),
      format_number(s.error),
      s.optimal ? "proven optimal (bound equals value)"
                : fmt::format("the exact optimum at this cost is bounded by {}", format_number(s.bound))));
  const std::vector<Rate> rates = table_rates(in.tables);
  HeatTable heat;
  heat.corner = "block";
  for (const Rate rate : rates)
    if (!rate.is_full()) heat.columns.push_back(rate.is_linear() ? "linear" : "R" + rate.name());
  for (int64_t b = 0; b < in.tables.blocks(); ++b) {
    heat.rows.push_back(std::to_string(b));
    heat.values.emplace_back();
    double scale = 0;
    const auto& scales = in.blocks[static_cast<size_t>(b)].teacher_scale;
    for (const double value : scales) scale += value / static_cast<double>(scales.size());
    for (const Rate rate : rates) {
      if (rate.is_full()) continue;
      if (s.rates[static_cast<size_t>(b)] == rate)
        heat.marked.emplace_back(b, static_cast<int64_t>(heat.values.back().size()));
      heat.values.back().push_back(in.tables.at(b, rate).error / scale);
    }
  }
  heat.scale = Scale::logarithmic;
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
  page.figures(
      {{heat_table_html(heat),
        "Held-out error of every block and rate, relative to the teacher's mean absolute "
        "output; framed: the selected rates."},
       {plot_svg(frontier), s.frontier.complete ? "Error against cost: every optimal choice."
                                                : "Error against cost: optima at sampled budgets (the whole "
                                                  "frontier has more points than are listed)."}});
}

void add_distillation(Page& page, const Inputs& in) {
  page.section("Distillation");
  Plot plot;
  plot.x.label = "update";
  plot.y.label = "value loss, mean over blocks";
  plot.y.scale = Scale::logarithmic;
  const size_t rates = in.blocks.front().rates.size();
  for (size_t r = 0; r < rates; ++r) {
    Series series;
    const Rate rate = in.blocks.front().rates[r].rate;
    series.name = rate.is_linear() ? "linear" : "R" + rate.name();
    const size_t updates = in.blocks.front().rates[r].losses.size();
    const size_t stride = std::max<size_t>(1, updates / 200);
    for (size_t u = 0; u < updates; u += stride) {
      double mean = 0;
      for (const BlockState& block : in.blocks)
        mean += block.rates[r].losses[u] / static_cast<double>(in.blocks.size());
      series.x.push_back(static_cast<double>(u + 1));
      series.y.push_back(mean);
    }
    if (!series.x.empty()) plot.series.push_back(std::move(series));
  }
  if (plot.series.empty())
    page.text("The feature maps were not trained (no linear branch).");
  else
    page.figure(plot_svg(plot), "Training loss of the feature maps, each block alone.");
}

void add_finetuning(Page& page, const Inputs& in) {
  std::map<int64_t, std::pair<double, double>>
      iterations;  // a resumed run writes some again: the last counts
  for (const auto& line : read_lines(in.recipe.run.metrics()))
    if (line.value("stage", "") == "finetune")
      iterations[line.value("iteration", int64_t{0})] = {line.value("loss", 0.0), line.value("seconds", 0.0)};
  if (iterations.empty()) return;
  page.section("Finetuning");
  Plot plot;
  plot.x.label = "iteration";
  plot.y.label = "flow-matching loss";
  Series raw, smooth;
  raw.name = "loss";
  raw.mark = Series::Mark::points;
  smooth.name = "running mean";
  double mean = 0;
  for (const auto& [iteration, values] : iterations) {
    mean = raw.y.empty() ? values.first : 0.95 * mean + 0.05 * values.first;
    raw.x.push_back(static_cast<double>(iteration));
    raw.y.push_back(values.first);
    smooth.x.push_back(static_cast<double>(iteration));
    smooth.y.push_back(mean);
  }
  plot.series = {raw, smooth};
  page.figure(plot_svg(plot), fmt::format("{} iterations, global batch {}.", iterations.rbegin()->first,
                                          in.recipe.config.finetune.global_batch));
}

void add_evaluation(Page& page, const Inputs& in) {
  page.section("Evaluation");
  const bool shapes = in.evaluation.variants.front().has_shapes;
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
      for (const int64_t right : s.shapes.right)
        row.push_back(
            percent(static_cast<double>(right) / static_cast<double>(std::max<int64_t>(1, s.shapes.clips))));
    }
    table.rows.push_back(std::move(row));
  };
  for (const VariantScore& s : in.evaluation.variants) add(s);
  if (in.evaluation.has_average) add(in.evaluation.average);
  table.caption = "Every model starts from the same noise; errors are against the teacher's clips.";
  page.table(table);
  page.section("Clips");
  const GenerateSection& g = in.recipe.config.generate;
  const auto prompts = recipe_prompts(g.prompts, g.count, "generate.prompts");
  const auto names = video_names(prompts, g.samples);
  std::vector<VideoRow> rows;
  for (int64_t i = 0; i < std::min<int64_t>(kMostVideoRows, static_cast<int64_t>(prompts.size())); ++i) {
    VideoRow row;
    row.title = prompts[static_cast<size_t>(i)].name;
    for (const VariantScore& s : in.evaluation.variants) {
      if (variant_iteration(s.variant) && s.variant != in.evaluation.variants.back().variant) continue;
      const auto path = video_folder(in.recipe, s.variant) / names[static_cast<size_t>(i * g.samples)];
      row.cells.push_back({s.variant, std::filesystem::exists(path) ? read_file(path) : std::string()});
    }
    rows.push_back(std::move(row));
  }
  page.videos(rows);
}

void add_ledger(Page& page, const Inputs& in) {
  page.section("Ledger");
  Table table;
  table.columns = {{"stage", false},  {"ranks", true}, {"device", false},
                   {"seconds", true}, {"made", true},  {"reused", true}};
  double total = 0;
  for (const auto& line : read_lines(in.recipe.run.ledger())) {
    table.rows.push_back({line.value("stage", ""), std::to_string(line.value("ranks", 0)),
                          line.value("device", ""), fmt::format("{:.1f}", line.value("seconds", 0.0)),
                          std::to_string(line.value("made", 0)), std::to_string(line.value("reused", 0))});
    total += line.value("device_seconds", 0.0);
  }
  table.caption = fmt::format("{:.0f} device-seconds in all.", total);
  page.table(table);
  page.fold("Configuration", read_file(in.recipe.run.config()));
}

}  // namespace

bool make_report(Recipe& recipe) {
  StageTimer timer(recipe, "report");
  int64_t made = 0;
  if (recipe.session.rank() == 0) {
    Inputs in{recipe,
              read_tables(recipe.run.tables_h5()),
              read_selection(recipe),
              read_evaluation(recipe.run.evaluation()),
              {}};
    // The page is derived from these alone; the ledger grows with it and does not count.
    const std::string fingerprint =
        make_fingerprint({"report-1", in.evaluation.fingerprint, selection_json(in.selection),
                          hash_file(recipe.run.tables_h5()), read_file(recipe.run.config())});
    const std::string stamp = "<!-- surgery report " + fingerprint + " -->";
    if (!std::filesystem::exists(recipe.run.report()) ||
        read_file(recipe.run.report()).find(stamp) == std::string::npos) {
      for (int64_t b = 0; b < in.tables.blocks(); ++b) in.blocks.push_back(read_block(recipe.run.block(b)));
      Page page("Attention surgery", fmt::format("{} — teacher {}", recipe.run.root().filename().string(),
                                                 recipe.config.model.path));
      add_summary(page, in);
      add_selection(page, in);
      add_distillation(page, in);
      add_finetuning(page, in);
      add_evaluation(page, in);
      add_ledger(page, in);
      write_file(recipe.run.report(), page.html() + stamp + "\n");
      made = 1;
    }
    log_info("report: {}", recipe.run.report().string());
  }
  recipe.session.world().barrier();
  timer.done(made, 1 - made);
  return true;
}

}  // namespace surgery
