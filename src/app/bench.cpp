#include "app/bench.h"

#include <ATen/Parallel.h>

#include "app/command.h"

namespace surgery {
namespace {

void print_table(const std::vector<BenchRow>& rows) {
  fmt::print("{:<28}{:>12}{:>12}{:>9}{:>8}  peer\n", "what", "ours, ms", "peer, ms", "ratio", "goal");
  for (const BenchRow& row : rows)
    fmt::print("{:<28}{:>12.2f}{:>12.2f}{:>9.2f}{:>8}  {}\n", row.name, 1e3 * row.ours_seconds,
               1e3 * row.peer_seconds, row.ratio, row.goal > 0 ? fmt::format("{:.2f}", row.goal) : "",
               row.peer);
}

ExitCode run(Context& context) {
  if (context.session.rank() != 0) return ExitCode::done;
  BenchOptions options;
  options.tokens = context.options.integer("tokens", options.tokens);
  options.heads = context.options.integer("heads", options.heads);
  options.head_dim = context.options.integer("head-dim", options.head_dim);
  options.repetitions = context.options.integer("repetitions", options.repetitions);
  if (options.tokens < 1 || options.heads < 1 || options.head_dim < 1 || options.repetitions < 1)
    fail_usage("bench needs tokens, heads, head dim and repetitions of at least 1: correct the options");
  const std::vector<BenchRow> rows = bench_attention(options);
  if (!context.options.has("json")) {
    fmt::print("attention, forward, fp32, {} threads, {} tokens, {} heads of {}; medians of {}\n",
               at::get_num_threads(), options.tokens, options.heads, options.head_dim, options.repetitions);
    print_table(rows);
    return ExitCode::done;
  }
  nlohmann::ordered_json all = {{"threads", at::get_num_threads()},
                                {"tokens", options.tokens},
                                {"heads", options.heads},
                                {"head_dim", options.head_dim},
                                {"repetitions", options.repetitions}};
  for (const BenchRow& row : rows)
    all["attention"].push_back({{"name", row.name},
                                {"ours_seconds", row.ours_seconds},
                                {"peer_seconds", row.peer_seconds},
                                {"ratio", row.ratio},
                                {"goal", row.goal},
                                {"peer", row.peer}});
  fmt::print("{}\n", all.dump(2));
  return ExitCode::done;
}

}  // namespace

Command bench_command() {
  return {"bench",
          "benchmarks against peers",
          run,
          CommandKind::tool,
          {{"json", "", "print as JSON", false},
           {"tokens", "N", "tokens of a sequence (8192)", false},
           {"heads", "N", "attention heads (2)", false},
           {"head-dim", "N", "numbers a head (128)", false},
           {"repetitions", "N", "runs of each candidate, interleaved (5)", false}},
          ""};
}

}  // namespace surgery
