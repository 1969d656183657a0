// A checkpoint of random weights at any size: what plans, measurements and tests at full size start from.
#include <filesystem>
#include <set>

#include "app/checkpoint_options.h"
#include "app/options.h"
#include "base/log.h"
#include "base/text.h"
#include "recipe/component_cost.h"
#include "recipe/model_parts.h"
#include "recipe/plan.h"
#include "storage/atomic_file.h"
#include "wan/initial_weights.h"
#include "wan/pipeline_files.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

struct Init {
  ModelSizes sizes;
  fs::path output;
  Naming naming = Naming::diffusers;
  std::set<ModelPart> parts;
  std::string dtype_name;
  at::ScalarType dtype = at::kBFloat16, vae_dtype = at::kFloat;
  uint64_t shard_bytes = 0;
  RandomKey key;
  std::string tokenizer;  ///< a tokenizer's folder to copy; empty: none
};

Naming layout_option(const CommandLine& options) {
  const std::string name = options.text("layout", "diffusers");
  if (name == "diffusers") return Naming::diffusers;
  if (name == "wan") return Naming::wan;
  fail_usage("--layout = {} must be one of diffusers, wan", name);
}

std::set<ModelPart> parts_option(const CommandLine& options) {
  std::set<ModelPart> parts;
  for (const std::string& name : split(options.text("parts", "transformer,vae,text_encoder"), ',')) {
    std::optional<ModelPart> found;
    for (const ModelPart part : {ModelPart::transformer, ModelPart::vae, ModelPart::text_encoder})
      if (name == to_string(part)) found = part;
    if (!found) fail_usage("--parts: '{}' is none of transformer, vae, text_encoder", name);
    parts.insert(*found);
  }
  return parts;
}

/// The model whose sizes are meant: that of --model-config, of model.config, or of model.path.
ModelSection model_option(const Context& context) {
  ModelSection model = context.config.model;
  if (context.options.has("model-config")) {
    const fs::path place = context.options.text("model-config");
    if (fs::is_directory(place)) {
      model.config = place;  // as --model.config
    } else {
      Config config;
      std::vector<std::string> faults;
      const auto settings = read_config_file(place, faults);
      for (std::string& fault : apply_settings(config, settings)) faults.push_back(std::move(fault));
      if (!faults.empty()) fail_usage("--model-config: {}", faults.front());
      model.config = config.model.config.empty() ? config.model.path : config.model.config;
    }
  }
  if (!model.config.empty()) model.path.clear();
  return model;
}

uint64_t seed_option(const Context& context) {
  if (!context.options.has("seed")) return context.config.run.seed;
  const std::string& text = context.options.text("seed");
  const auto seed = parse_number<uint64_t>(text);
  if (!seed) fail_usage("--seed = {} must be a whole number from 0", text);
  return *seed;
}

double bytes_of(const Init& wanted) {
  const auto width = [](at::ScalarType type) { return static_cast<double>(c10::elementSize(type)); };
  double bytes = 0;
  if (wanted.parts.contains(ModelPart::transformer))
    bytes += width(wanted.dtype) * static_cast<double>(parameter_count(wanted.sizes.transformer));
  if (wanted.parts.contains(ModelPart::vae))
    bytes += width(wanted.vae_dtype) * static_cast<double>(parameter_count(wanted.sizes.vae));
  if (wanted.parts.contains(ModelPart::text_encoder))
    bytes += width(wanted.dtype) * static_cast<double>(parameter_count(wanted.sizes.text_encoder));
  return bytes;
}

/// Refuses early what would end in a full disk. Error{io}.
void check_disk(const Init& wanted) {
  fs::path folder = fs::absolute(wanted.output).parent_path();
  while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
  std::error_code error;
  const auto space = fs::space(folder, error);
  if (!error && bytes_of(wanted) > static_cast<double>(space.available))
    fail_io("{}: the checkpoint takes {}, {} are free: choose another --output, --dtype or --parts",
            wanted.output.string(), bytes_text(bytes_of(wanted)),
            bytes_text(static_cast<double>(space.available)));
}

void write_parts(const Init& wanted, const fs::path& output) {
  const bool diffusers = wanted.naming == Naming::diffusers;
  const SaveAs shards{.naming = wanted.naming,
                      .stem = "",
                      .shard_bytes = wanted.shard_bytes,
                      .text_length = wanted.sizes.text_tokens};
  const auto place = [&](ModelPart part) { return diffusers ? output / to_string(part) : output; };
  const auto key = [&](ModelPart part) { return wanted.key.with(to_string(part)); };
  for (const ModelPart part : wanted.parts) {
    if (part == ModelPart::transformer)
      save_transformer(wanted.sizes.transformer,
                       initial_transformer(wanted.sizes.transformer, key(part), InitialHead::drawn),
                       place(part), wanted.dtype, shards);
    if (part == ModelPart::vae)
      save_vae(wanted.sizes.vae, initial_vae(wanted.sizes.vae, key(part)), place(part), wanted.vae_dtype,
               diffusers ? shards : original_vae());
    if (part == ModelPart::text_encoder)
      save_text_encoder(wanted.sizes.text_encoder, initial_text_encoder(wanted.sizes.text_encoder, key(part)),
                        place(part), wanted.dtype,
                        diffusers ? shards : original_text_encoder(wanted.dtype_name));
    log_info("{} written", to_string(part));
  }
  if (!wanted.tokenizer.empty())
    copy_whole(find_tokenizer(wanted.tokenizer),
               diffusers ? output / "tokenizer" : output / "google/umt5-xxl");
  // It names all parts.
  if (diffusers && fs::exists(output / "vae") && fs::exists(output / "text_encoder") &&
      fs::exists(output / "tokenizer"))
    write_pipeline_files(output);
}

ExitCode run(Context& context) {
  const CommandLine& options = context.options;
  Init wanted;
  wanted.output = output_option(options);
  wanted.naming = layout_option(options);
  wanted.parts = parts_option(options);
  wanted.dtype_name = options.text("dtype", "bf16");
  wanted.dtype = dtype_option(options, "dtype", "bf16");
  wanted.vae_dtype = dtype_option(options, "vae-dtype", "fp32");
  wanted.shard_bytes = shard_size_option(options);
  wanted.key = RandomKey{seed_option(context), 0}.with("init");
  wanted.tokenizer = context.config.model.tokenizer;
  const ModelSection model = model_option(context);
  if (context.session.rank() != 0) return ExitCode::done;
  check_output_is_new(wanted.output, OutputKind::folder);
  if (!wanted.tokenizer.empty()) tokenizer_content(wanted.tokenizer);  // there must be one
  wanted.sizes = read_model_sizes(model);
  check_disk(wanted);
  try {
    remove_stale_temporaries(fs::absolute(wanted.output).parent_path());  // of a call that was killed
    AtomicFolder folder(wanted.output);
    write_parts(wanted, folder.temporary());
    folder.commit();
  } catch (const fs::filesystem_error& error) {
    fail_io("{}: {}", wanted.output.string(), error.what());
  }
  log_info("{} holds random weights, {}{}", wanted.output.string(), bytes_text(bytes_of(wanted)),
           wanted.tokenizer.empty() ? "; it has no tokenizer (prompts need one: --model.tokenizer)" : "");
  return ExitCode::done;
}

}  // namespace

Command init_command() {
  return {
      "init",
      "a checkpoint of random weights at a model's sizes",
      run,
      CommandKind::tool,
      {{"model-config", "FILE",
        "the model's sizes, as configs/models/wan2.1-t2v-1.3b.cfg, or the folder that it names (--config "
        "FILE and "
        "--model.config=FOLDER are as good); sizes of VAE and text encoder that are not there are Wan2.1's",
        false},
       {"output", "FOLDER", "folder to make; no tokenizer is made, that of --model.tokenizer is copied",
        true},
       {"layout", "NAME", "diffusers (default) or wan (the original repository's)", false},
       {"parts", "NAMES", "what to write (default transformer,vae,text_encoder)", false},
       {"dtype", "TYPE", "of transformer and text encoder: fp32, bf16 (default) or fp16", false},
       {"vae-dtype", "TYPE", "of the VAE (default fp32)", false},
       {"seed", "N", "of the random weights (default run.seed); every layout holds the same", false},
       {"shard-size", "SIZE", "tensors of one file at most, as 5GB (default) or 200MB", false}},
      ""};
}

}  // namespace surgery
