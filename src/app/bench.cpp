#include "app/bench.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "app/command.h"
#include "attention/cost_model.h"
#include "base/clock.h"
#include "base/statistics.h"
#include "recipe/plan.h"
#include "recipe/pretrain_transformer.h"

namespace surgery {
namespace {

constexpr std::array<std::string_view, 8> kTables{"attention", "transformer", "knapsack",  "cache",
                                                  "load",      "finetune",    "reference", "train"};
constexpr size_t kInPython = 2;  // the last ones: only when they are asked for

void print_table(const BenchTable& table) {
  fmt::print("{}\n{:<34}{:>12}{:>12}{:>8}{:>8}  peer, or note\n", table.title, "", "ours, ms", "peer, ms",
             "ratio", "goal");
  for (const BenchRow& row : table.rows) {
    const bool peer = row.peer_seconds > 0;
    const std::string goal = row.goal > 0    ? fmt::format("{:.2f}", row.goal)
                             : row.limit > 0 ? fmt::format("<{:g}ms", 1e3 * row.limit)
                                             : "";
    fmt::print("{:<34}{:>12.3f}{:>12}{:>8}{:>8}  {}{}{}\n", row.name, 1e3 * row.seconds,
               peer ? fmt::format("{:.3f}", 1e3 * row.peer_seconds) : "",
               peer ? fmt::format("{:.2f}", row.ratio()) : "", goal, row.peer,
               !row.peer.empty() && !row.note.empty() ? "; " : "", row.note);
  }
  fmt::print("\n");
}

nlohmann::ordered_json as_json(const BenchTable& table) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const BenchRow& row : table.rows) {
    nlohmann::ordered_json out{{"name", row.name}, {"seconds", row.seconds}};
    if (row.peer_seconds > 0)
      out.update({{"peer", row.peer}, {"peer_seconds", row.peer_seconds}, {"ratio", row.ratio()}});
    if (row.goal > 0) out["goal"] = row.goal;
    if (row.limit > 0) out["limit_seconds"] = row.limit;
    if (!row.note.empty()) out["note"] = row.note;
    rows.push_back(std::move(out));
  }
  return {{"title", table.title}, {"rows", rows}};
}

BenchTable run_one(std::string_view name, const BenchOptions& options, Session& session) {
  if (name == "finetune") return bench_finetune(options, session);  // all ranks together
  if (session.rank() != 0) return {};
  if (name == "attention") return bench_attention(options);
  if (name == "transformer") return bench_transformer(options);
  if (name == "knapsack") return bench_knapsack(options);
  if (name == "load") return bench_load(options);
  if (name == "reference") return bench_reference(options);
  if (name == "train") return bench_train(options);
  return bench_cache(options);
}

ExitCode run(Context& context) {
  BenchOptions options;
  options.tokens = context.options.integer("tokens", options.tokens);
  options.heads = context.options.integer("heads", options.heads);
  options.head_dim = context.options.integer("head-dim", options.head_dim);
  const ModelSection& model = context.config.model;
  options.transformer = model.path.empty() && model.config.empty() ? small_transformer_config()
                                                                   : read_model_sizes(model).transformer;
  options.batch = context.options.integer("batch", options.batch);
  options.repetitions = context.options.integer("repetitions", options.repetitions);
  options.shardings = sharding_names();
  if (const std::string name = context.options.text("sharding", "all"); name != "all") {
    parse_sharding(name);
    options.shardings = {name};
  }
  options.folder = context.options.text("folder", std::filesystem::temp_directory_path().string());
  options.clips = context.options.integer("clips", options.clips);
  if (std::min({options.tokens, options.heads, options.head_dim, options.batch, options.clips,
                options.repetitions}) < 1)
    fail_usage(
        "bench: tokens, heads, head-dim, batch, clips and repetitions count something: give at least 1");
  if (context.options.has("clip")) {
    const auto clip = parse_clip_shape(context.options.text("clip"));
    if (!clip) fail_usage("bench: --clip = '{}' is no FRAMESxHEIGHTxWIDTH", context.options.text("clip"));
    options.clip = *clip;
    video_tokens(clip->frames, clip->height, clip->width);  // that they fit the model
  }
  options.source = context.options.text("source", ".");
  std::vector<std::string> wanted = context.options.positional();
  for (const std::string& name : wanted)
    if (std::find(kTables.begin(), kTables.end(), name) == kTables.end())
      fail_usage("bench has no table \"{}\": {} are there", name, fmt::join(kTables, ", "));
  if (wanted.empty()) wanted.assign(kTables.begin(), kTables.end() - kInPython);
  const bool json = context.options.has("json"), prints = context.session.rank() == 0;
  nlohmann::ordered_json all{{"threads", at::get_num_threads()},
                             {"ranks", context.session.size()},
                             {"repetitions", options.repetitions}};
  if (prints && !json)
    fmt::print("{} threads, {} ranks, {} repetitions\n\n", at::get_num_threads(), context.session.size(),
               options.repetitions);
  for (const std::string& name : wanted) {
    const BenchTable table = run_one(name, options, context.session);
    if (prints && json) all[name] = as_json(table);
    if (prints && !json) print_table(table);
  }
  if (prints && json) fmt::print("{}\n", all.dump(2));
  return ExitCode::done;
}

}  // namespace

std::vector<std::vector<double>> interleaved_seconds(const std::vector<std::function<void()>>& candidates,
                                                     int64_t repetitions) {
  std::vector<std::vector<double>> seconds(candidates.size());
  for (int64_t round = 0; round <= repetitions; ++round)
    for (size_t i = 0; i < candidates.size(); ++i) {
      const double start = steady_seconds();
      candidates[i]();
      const double spent = steady_seconds() - start;
      if (round > 0) seconds[i].push_back(spent);
    }
  return seconds;
}

std::vector<double> interleaved_medians(const std::vector<std::function<void()>>& candidates,
                                        int64_t repetitions) {
  std::vector<double> medians;
  for (std::vector<double>& one : interleaved_seconds(candidates, repetitions))
    medians.push_back(median(std::move(one)));
  return medians;
}

std::vector<double> interleaved_best(const std::vector<std::function<void()>>& candidates,
                                     int64_t repetitions) {
  std::vector<double> best;
  for (const std::vector<double>& one : interleaved_seconds(candidates, repetitions))
    best.push_back(*std::min_element(one.begin(), one.end()));
  return best;
}

Command bench_command() {
  return {
      "bench",
      "benchmarks against peers in the same run; with mpirun, the communication of finetuning too; with "
      "--model.path or --model.config, the transformer at that model's sizes",
      run,
      CommandKind::tool,
      {{"json", "", "print as JSON"},
       {"repetitions", "N", "runs of each candidate, interleaved [5]"},
       {"tokens", "N", "of the attention benchmark [8192]"},
       {"heads", "N", "of the attention benchmark [2]"},
       {"head-dim", "N", "of the attention benchmark [128]"},
       {"batch", "N", "of the transformer benchmark, clips [1]"},
       {"clips", "N", "of a step of the finetuning benchmark [8]"},
       {"clip", "FxHxW", "frames, height and width of such a clip [17x128x160]"},
       {"sharding", "NAME", "of the finetuning benchmark: none, optimizer, parameters, or all in turn [all]"},
       {"folder", "DIR", "where the cache and load benchmarks write [the system's temporary folder]"},
       {"source", "DIR", "the source tree, for the benchmarks reference and train [.]"}},
      "attention|transformer|knapsack|cache|load|finetune|reference|train..."};
}

}  // namespace surgery
