// What a recipe will cost, from configurations alone: no weights, no GPU.
#include "recipe/plan.h"

#include <torch/cuda.h>

#include "app/command.h"
#include "base/clock.h"
#include "base/host_memory.h"
#include "base/tensor.h"
#include "recipe/finetune_origin.h"
#include "recipe/recipe.h"
#include "recipe/run_directory.h"
#include "recipe/streaming.h"

namespace surgery {
namespace {

constexpr double GiB = 1024.0 * 1024.0 * 1024.0;

/// FLOPs a second of matrix products, best of several: fp32 [512, 512] on this rank's threads, bf16 [8192,
/// 8192] on its GPU.
double measured_rate(at::Device device) {
  const at::NoGradGuard no_grad;
  const int64_t n = device.is_cpu() ? 512 : 8192;
  const at::TensorOptions options = at::device(device).dtype(device.is_cpu() ? at::kFloat : at::kBFloat16);
  const at::Tensor a = at::ones({n, n}, options), b = at::ones({n, n}, options);
  double best = 1e9;
  for (int i = 0; i < 8; ++i) {
    if (!device.is_cpu()) torch::cuda::synchronize();
    const double start = steady_seconds();
    at::matmul(a, b);
    if (!device.is_cpu()) torch::cuda::synchronize();
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

/// For this machine, unless it is told of another, or has no GPU and one is planned for.
PlanMachine machine_of(const Config& config, const Session& session, const CommandLine& options) {
  const bool gpu = config.model.device == "cuda", gpu_here = gpu && torch::cuda::is_available();
  const bool here = !options.has("ranks") && !options.has("rate") && gpu == gpu_here;
  const at::Device device = gpu_here ? choose_device("cuda", session) : at::Device(at::kCPU);
  PlanMachine machine;
  machine.ranks = static_cast<int64_t>(positive(options, "ranks", session.size()));
  const double efficiency = positive(options, "efficiency", 0.5);
  const bool stated = options.has("rate");
  const double rate = stated ? positive(options, "rate", 0) : measured_rate(device);
  machine.flops_per_second = rate * efficiency;
  machine.rate_origin = fmt::format("{} {:.3g} FLOP/s times an efficiency of {}",
                                    stated             ? "stated"
                                    : device.is_cuda() ? "measured here with bf16 matrix products:"
                                                       : "measured here with fp32 matrix products:",
                                    rate, efficiency);
  if (options.has("memory"))
    machine.memory_bytes = positive(options, "memory", 0) * GiB;
  else if (here || config.run.memory_limit_gib > 0)
    machine.memory_bytes = rank_memory(config, device, session.local_size());
  if (options.has("host-memory"))
    machine.host_bytes = positive(options, "host-memory", 0) * GiB;
  else if (here && gpu)
    machine.host_bytes = host_memory() / session.local_size();
  machine.disk_bytes =
      options.has("disk") ? positive(options, "disk", 0) * GiB : free_disk(config.run.directory);
  return machine;
}

ExitCode run(Context& context) {
  if (context.session.rank() != 0) return ExitCode::done;
  Config config = context.config;
  const CommandLine& options = context.options;
  if (config.model.device == "auto" && (torch::cuda::is_available() || options.has("host-memory")))
    config.model.device = "cuda";
  Plan plan = make_plan(config, read_model_sizes(config.model), machine_of(config, context.session, options));
  const bool gpu = config.model.device == "cuda";
  if (gpu && !options.has("rate"))
    plan.notes.push_back(
        torch::cuda::is_available()
            ? "the times are of bf16 products: what is computed in fp32 takes several times as long"
            : "the times are those of this CPU: give --rate FLOP/s of the GPU");
  if (plan.machine.memory_bytes == 0)
    plan.notes.push_back(
        "memory of a rank is not known (another machine is planned for): give --memory GiB to check it");
  if (gpu && plan.machine.host_bytes == 0)
    plan.notes.push_back("the host's memory of a rank is not known: give --host-memory GiB to check it");
  const RunDirectory directory(config.run.directory, config.run.base);
  directory.check_base();
  directory.check_not_stopped();
  check_resume(config, directory);
  count_existing(plan, config);
  if (options.has("json"))
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
           {"host-memory", "GiB", "memory of one rank on its host, beside its GPU (default: this machine's)",
            false},
           {"disk", "GiB", "free disk (default: what is free at run.directory)", false},
           {"json", "", "print as JSON", false}},
          ""};
}

}  // namespace surgery
