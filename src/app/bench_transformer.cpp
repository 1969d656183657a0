#include "app/bench_transformer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "app/command.h"
#include "base/random.h"
#include "wan/transformer.h"

namespace surgery {
namespace {

/// The fastest run: on a shared machine the others measure its load.
template <class Run>
double best_seconds(int64_t repetitions, Run run) {
  double best = std::numeric_limits<double>::infinity();
  for (int64_t round = 0; round <= repetitions; ++round) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (round > 0) best = std::min(best, spent.count());
  }
  return best;
}

ExitCode run(Context& context) {
  if (context.session.rank() != 0) return ExitCode::done;
  TransformerBenchOptions options;
  options.batch = context.options.integer("batch", options.batch);
  options.repetitions = context.options.integer("repetitions", options.repetitions);
  if (options.batch < 1 || options.repetitions < 1)
    fail_usage("batch {} and repetitions {} (both count something): give at least 1", options.batch,
               options.repetitions);
  const TransformerTiming timing = bench_transformer(options);
  const nlohmann::ordered_json figures = {{"threads", at::get_num_threads()},
                                          {"batch", options.batch},
                                          {"repetitions", options.repetitions},
                                          {"forward_seconds", timing.forward_seconds},
                                          {"training_seconds", timing.training_seconds}};
  if (context.options.has("json"))
    fmt::print("{}\n", figures.dump(2));
  else
    fmt::print("transformer, {} threads, batch {}: forward {:.2f} ms, forward and backward {:.2f} ms\n",
               at::get_num_threads(), options.batch, 1e3 * timing.forward_seconds,
               1e3 * timing.training_seconds);
  return ExitCode::done;
}

}  // namespace

TransformerTiming bench_transformer(const TransformerBenchOptions& options) {
  TransformerConfig config;
  config.num_layers = options.layers;
  config.num_attention_heads = options.heads;
  config.attention_head_dim = options.head_dim;
  config.ffn_dim = options.ffn_dim;
  config.text_dim = options.text_dim;
  const RandomKey key{2024, 1};
  Transformer model = Transformer::random(config, key);
  const auto latents = random_normal(key.with("latents"), {options.batch, config.in_channels, options.frames,
                                                           options.height, options.width});
  const auto text = random_normal(key.with("text"), {options.batch, options.text_length, options.text_dim});
  const auto timestep = at::full({options.batch}, 500, at::kFloat);

  TransformerTiming timing;
  timing.forward_seconds = best_seconds(options.repetitions, [&] {
    const at::NoGradGuard no_gradient;
    model.forward(latents, timestep, text);
  });
  model.set_requires_grad(true);
  timing.training_seconds = best_seconds(options.repetitions, [&] {
    model.forward(latents, timestep, text).square().mean().backward();
    for (auto& [name, tensor] : model.parameters()) tensor.mutable_grad().reset();
  });
  return timing;
}

Command bench_transformer_command() {
  return {"bench-transformer",
          "time the transformer at the small teacher's size (its peer: tests/bench/transformer_bench.py)",
          run,
          CommandKind::tool,
          {{"json", "", "print as JSON", false},
           {"batch", "N", "clips of a batch (1)", false},
           {"repetitions", "N", "runs, of which the fastest counts (20)", false}},
          ""};
}

}  // namespace surgery
