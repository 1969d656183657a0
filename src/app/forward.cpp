#include "app/forward.h"

#include <fmt/ranges.h>
#include <torch/cuda.h>

#include "base/clock.h"
#include "base/host_memory.h"
#include "recipe/streaming.h"
#include "wan/sampler.h"

namespace surgery {
namespace {

std::vector<Component> components() {
  std::vector<Component> all = transformer_components();
  for (auto& component : scheduler_components()) all.push_back(std::move(component));
  for (auto& component : vae_components()) all.push_back(std::move(component));
  for (auto& component : text_components()) all.push_back(std::move(component));
  return all;
}

/// "names, of, components", or one line each with its inputs and outputs.
std::string listing(const std::string& between, bool with_help) {
  std::vector<std::string> lines;
  for (const auto& component : components()) {
    lines.push_back(with_help ? fmt::format("{}: {}", component.name, component.help) : component.name);
  }
  return fmt::format("{}", fmt::join(lines, between));
}

/// For benchmarks: {"seconds": [...]} of so many further runs. The first run has warmed caches and allocator.
void print_seconds(int64_t repeats, const std::function<TensorMap()>& action) {
  if (repeats <= 0) return;
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeats; ++i) {
    const double start = steady_seconds();
    action();
    seconds.push_back(steady_seconds() - start);
  }
  fmt::print("{{\"seconds\": [{:.6f}]}}\n", fmt::join(seconds, ", "));
}

/// A run's options would be passed over without a word.
void refuse_run_options(const ModelSection& model) {
  const ModelSection usual;
  if (model.precision != usual.precision || model.text_precision != usual.text_precision ||
      model.vae_precision != usual.vae_precision || model.vae_tile != usual.vae_tile)
    fail_usage("forward takes --precision and --tile, not the options of a run (model.precision, ...)");
}

ExitCode run(Context& context) {
  if (context.session.rank() != 0) return ExitCode::done;
  refuse_run_options(context.config.model);
  const auto& wanted = context.options.text("component");
  for (const auto& component : components()) {
    if (component.name != wanted) continue;
    const std::filesystem::path output = context.options.text("output"),
                                model = component.needs_model ? context.options.text("model") : "";
    TensorMap input;
    if (context.options.has("input")) input = TensorStore::open_file(context.options.text("input")).all();
    const at::NoGradGuard no_gradient;
    const auto forward = component.prepare(model, input, context.options);
    save_tensors(output, forward());
    print_seconds(context.options.integer("repeat", 0), forward);
    return ExitCode::done;
  }
  fail_usage("component \"{}\" is unknown (a model has {}): name one of them", wanted, listing(", ", false));
}

}  // namespace

const at::Tensor& input_tensor(const TensorMap& input, const std::string& name) {
  const auto found = input.find(name);
  if (found != input.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [present, tensor] : input) names.push_back(present);
  fail_data("the input has no tensor \"{}\" (it has: {}): give it under that name", name,
            names.empty() ? "nothing" : fmt::format("{}", fmt::join(names, ", ")));
}

const at::Tensor& finite_input(const TensorMap& input, const std::string& name) {
  const auto& tensor = input_tensor(input, name);
  VALIDATE(tensor.is_floating_point(), "input \"{}\" holds {} (floating point is needed): convert it", name,
           c10::toString(tensor.scalar_type()));
  VALIDATE(at::isfinite(tensor).all().item<bool>(),
           "input \"{}\" has values that are not finite (every output would be wrong): check how it was made",
           name);
  return tensor;
}

at::Device device_option(const CommandLine& options) {
  const std::string name = options.text("device", "cpu");
  if (name != "cpu" && name != "cuda") fail_usage("device \"{}\" is unknown: choose cpu or cuda", name);
  if (name == "cuda" && !torch::cuda::is_available())
    fail_usage("device cuda was asked for, but LibTorch finds none: use cpu, or a build with CUDA on a GPU");
  return name == "cuda" ? at::kCUDA : at::kCPU;
}

bool stream_option(const CommandLine& options, double weights) {
  const std::string word = options.text("stream", "no");
  if (word != "yes" && word != "no" && word != "auto")
    fail_usage("--stream = {} must be one of yes, no, auto", word);
  return streams_blocks(word, weights, host_memory());
}

at::ScalarType precision_option(const CommandLine& options) {
  const std::string name = options.text("precision", "fp32");
  if (name == "fp32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  fail_usage("precision \"{}\" is unknown: choose fp32 or bf16", name);
}

Command forward_command() {
  return {
      "forward",
      "one component of a model on tensors",
      run,
      CommandKind::tool,
      {{"model", "PLACE", "the model's folder in any layout, or the component's own folder or file", false},
       {"component", "NAME", listing("; ", true), true},
       {"input", "FILE", "safetensors file with the inputs", false},
       {"prompt", "TEXT", "for text and context: a prompt, or @FILE with one a line", false},
       {"tokenizer", "DIR", "with --prompt: the tokenizer's folder (default: in --model)", false},
       {"output", "FILE", "safetensors file to write", true},
       {"repeat", "N", "run N times more and print the seconds of each as JSON, loading left out", false},
       {"stream", "WORD",
        "transformer, text: yes or no (default): blocks read from the file when it is their turn, two in "
        "memory at once; auto: where the weights would take more than half of this machine's memory",
        false},
       {"device", "NAME", "transformer, vae: cpu (default) or cuda", false},
       {"precision", "NAME",
        fmt::format("transformer: {}; text, vae: fp32, bf16; whatever the file holds (default fp32)",
                    fmt::join(precision_names(), ", ")),
        false},
       {"tile", "PIXELS", "vae: side of the tiles that larger frames are cut into (default 0: none)", false},
       {"tile-stride", "PIXELS",
        "vae: from one tile to the next, the rest is blended (default: three quarters of it)", false},
       {"sampler", "NAME", fmt::format("scheduler: {} (default unipc)", fmt::join(sampler_names(), ", ")),
        false},
       {"shift", "X", "scheduler: shift of the schedule (default 3; not with sigmas)", false},
       {"schedule", "NAME",
        fmt::format("scheduler: {} (default diffusers-unipc; not with sigmas)",
                    fmt::join(schedule_names(), ", ")),
        false},
       {"eta", "X", "scheduler: fresh noise of euler-ancestral, 0 to 1 (default)", false}},
      ""};
}

}  // namespace surgery
