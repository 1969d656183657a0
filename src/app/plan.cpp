// What a recipe will cost, from configurations alone: no weights, no GPU.
#include "recipe/plan.h"

#include "app/command.h"
#include "base/clock.h"
#include "base/host_memory.h"
#include "base/tensor.h"
#include "recipe/finetune_origin.h"
#include "recipe/run_directory.h"
#include "recipe/streaming.h"

namespace surgery {
namespace {

constexpr double GiB = 1024.0 * 1024.0 * 1024.0;

/// FLOPs a second of fp32 matrix products [512, 512] x [512, 512] on this rank's threads, best of several.
double measured_rate() {
  const at::NoGradGuard no_grad;
  const int64_t n = 512;
  const at::Tensor a = at::ones({n, n}), b = at::ones({n, n});
  double best = 1e9;
  for (int i = 0; i < 8; ++i) {
    const double start = steady_seconds();
    at::matmul(a, b);
    best = std::min(best, steady_seconds() - start);
  }
  return 2.0 * static_cast<double>(n * n * n) / best;
}

/// Free bytes where a folder is or will be.
double free_disk(std::filesystem::path folder) {
  std::error_code error;
  folder = std::filesystem::absolute(folder, error);
  while (!std::filesystem::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  const auto space = std::filesystem::space(folder, error);
  return error ? 0 : static_cast<double>(space.available);
}

double positive(const CommandLine& options, const char* name, double otherwise) {
  const double value = options.number(name, otherwise);
  if (options.has(name) && !(value > 0)) fail_usage("--{} = {} must be above 0", name, value);
  return value;
}

PlanMachine machine_of(Context& context) {
  const CommandLine& options = context.options;
  PlanMachine machine;
  machine.ranks = static_cast<int64_t>(positive(options, "ranks", context.session.size()));
  const double efficiency = positive(options, "efficiency", 0.5);
  const bool stated = options.has("rate");
  const double rate = stated ? positive(options, "rate", 0) : measured_rate();
  machine.flops_per_second = rate * efficiency;
  machine.rate_origin =
      fmt::format("{} {:.3g} FLOP/s times an efficiency of {}",
                  stated ? "stated" : "measured here with fp32 matrix products:", rate, efficiency);
  const double limit = context.config.run.memory_limit_gib;
  machine.memory_bytes = options.has("memory") ? positive(options, "memory", 0) * GiB
                         : limit > 0           ? limit * GiB
                         : options.has("ranks") || options.has("rate")
                             ? 0  // another machine than this one
                             : host_memory() / context.session.local_size();
  machine.disk_bytes =
      options.has("disk") ? positive(options, "disk", 0) * GiB : free_disk(context.config.run.directory);
  return machine;
}

ExitCode run(Context& context) {
  if (context.session.rank() != 0) return ExitCode::done;
  Plan plan = make_plan(context.config, read_model_sizes(context.config.model), machine_of(context));
  if (plan.machine.memory_bytes == 0)
    plan.notes.push_back(
        "memory of a rank is not known (another machine is planned for): give --memory GiB to check it");
  const RunDirectory directory(context.config.run.directory, context.config.run.base);
  directory.check_base();
  directory.check_not_stopped();
  check_resume(context.config, directory);
  count_existing(plan, context.config);
  if (context.options.has("json"))
    fmt::print("{}\n", plan_json(plan).dump(2));
  else
    fmt::print("{}", plan_text(plan));
  std::fflush(stdout);  // before what is said on the other stream
  if (plan.faults.empty()) return ExitCode::done;
  std::string message = "this does not fit:";
  for (const std::string& fault : plan.faults) message += "\n  " + fault;
  throw Error(ExitCode::usage, message);
}

}  // namespace

Command plan_command() {
  return {"plan",
          "what a recipe will cost and what of it exists; needs no weights, no GPU",
          run,
          CommandKind::tool,
          {{"ranks", "N", "processes to plan for (default: those started)", false},
           {"rate", "FLOP/s", "peak of one rank, e.g. 9.9e14; default: measured here in a moment", false},
           {"efficiency", "X", "share of the peak that is reached (default 0.5)", false},
           {"memory", "GiB", "memory of one rank (default: run.memory_limit_gib, or this machine's)", false},
           {"disk", "GiB", "free disk (default: what is free at run.directory)", false},
           {"json", "", "print as JSON", false}},
          ""};
}

}  // namespace surgery
