// A model in another layout and dtype: checked on the way in, complete or absent on the way out.
#include <filesystem>

#include "app/checkpoint_options.h"
#include "base/log.h"
#include "recipe/model_parts.h"
#include "storage/atomic_file.h"
#include "wan/pipeline_files.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

enum class Layout { diffusers, wan, comfy };

struct Export {
  ModelSection model;
  fs::path output;
  Layout layout = Layout::diffusers;
  std::string dtype_name;
  at::ScalarType dtype = at::kBFloat16, vae_dtype = at::kFloat;
  uint64_t shard_bytes = 5'000'000'000;  // the hub's own
};

Layout parse_layout(const std::string& name) {
  if (name == "diffusers") return Layout::diffusers;
  if (name == "wan") return Layout::wan;
  if (name == "comfy") return Layout::comfy;
  fail_usage("--layout = {} must be one of diffusers, wan, comfy", name);
}

/// The part's place, when the part is there.
std::optional<fs::path> place_if_there(const ModelSection& model, ModelPart part) {
  const fs::path place = part_place(model, part);
  if (place.empty() || !find_part(part, place)) return std::nullopt;
  return place;
}

/// The tokenizer's folder, when there is one.
std::optional<fs::path> tokenizer_if_there(const ModelSection& model) {
  const fs::path place = tokenizer_place(model);
  if (place.empty() || !fs::exists(find_tokenizer(place) / "spiece.model")) return std::nullopt;
  return find_tokenizer(place);
}

void export_diffusers(const Export& wanted, const fs::path& output) {
  const SaveAs as{.naming = Naming::diffusers, .stem = "", .shard_bytes = wanted.shard_bytes};
  Transformer::load(part_place(wanted.model, ModelPart::transformer))
      .save(output / "transformer", wanted.dtype, as);
  log_info("transformer written");
  if (const auto vae = place_if_there(wanted.model, ModelPart::vae)) {
    Vae::load(*vae).save(output / "vae", wanted.vae_dtype, as);
    log_info("vae written");
  }
  if (const auto text = place_if_there(wanted.model, ModelPart::text_encoder)) {
    TextEncoder::load(*text).save(output / "text_encoder", wanted.dtype, as);
    log_info("text_encoder written");
  }
  if (const auto tokenizer = tokenizer_if_there(wanted.model)) copy_whole(*tokenizer, output / "tokenizer");
  if (!fs::exists(output / "vae") || !fs::exists(output / "text_encoder") ||
      !fs::exists(output / "tokenizer"))
    return;  // model_index.json would name what is not there
  write_pipeline_files(output);
  for (const fs::path& file : pipeline_files(wanted.model))
    copy_whole(file, output / fs::relative(file, wanted.model.path));
}

/// The files of the original repository; VAE and text encoder as safetensors instead of Python pickles, with
/// their sizes inside, since config.json is the transformer's.
void export_wan(const Export& wanted, const fs::path& output) {
  SaveAs as{.naming = Naming::wan, .stem = "", .shard_bytes = wanted.shard_bytes};
  const auto tokenizer = tokenizer_if_there(wanted.model);
  if (tokenizer) {
    as.text_length = tokenizer_max_length(*tokenizer);
    copy_whole(*tokenizer, output / "google" / "umt5-xxl");
  }
  Transformer::load(part_place(wanted.model, ModelPart::transformer)).save(output, wanted.dtype, as);
  log_info("transformer written");
  if (const auto vae = place_if_there(wanted.model, ModelPart::vae)) {
    Vae::load(*vae).save(output, wanted.vae_dtype, original_vae());
    log_info("vae written");
  }
  if (const auto text = place_if_there(wanted.model, ModelPart::text_encoder)) {
    TextEncoder::load(*text).save(output, wanted.dtype, original_text_encoder(wanted.dtype_name));
    log_info("text_encoder written");
  }
}

/// One file of the transformer, as ComfyUI takes it.
void export_comfy(const Export& wanted) {
  const Transformer model = Transformer::load(part_place(wanted.model, ModelPart::transformer));
  if (model.config().hybrid)
    fail_usage(
        "--layout = comfy: the model is hybrid (ComfyUI knows no feature maps): export it as diffusers or "
        "wan");
  const SaveAs as{.naming = Naming::wan, .stem = wanted.output.stem().string(), .config_inside = true};
  model.save(fs::absolute(wanted.output).parent_path(), wanted.dtype, as);
}

/// Parts that the layout has a place for and the model has not.
void warn_of_missing_parts(const Export& wanted) {
  std::string missing;
  const auto add = [&](bool there, const char* part) {
    if (!there) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", part);
  };
  add(place_if_there(wanted.model, ModelPart::vae).has_value(), "vae");
  add(place_if_there(wanted.model, ModelPart::text_encoder).has_value(), "text_encoder");
  add(tokenizer_if_there(wanted.model).has_value(), "tokenizer");
  if (!missing.empty())
    log_warning(
        "there is no {} to export: a pipeline needs them (--model.vae, --model.text_encoder, "
        "--model.tokenizer name parts that lie elsewhere)",
        missing);
}

void check_output(const Export& wanted) {
  const fs::path& output = wanted.output;
  if (wanted.layout == Layout::comfy && output.extension() != ".safetensors")
    fail_usage("--output = {} is a file in the layout comfy: give it a name that ends in .safetensors",
               output.string());
  check_output_is_new(output, wanted.layout == Layout::comfy ? OutputKind::file : OutputKind::folder);
}

ExitCode run(Context& context) {
  const CommandLine& options = context.options;
  Export wanted;
  wanted.model = context.config.model;
  wanted.model.path = options.text("model");
  wanted.output = output_option(options);
  wanted.layout = parse_layout(options.text("layout", "diffusers"));
  wanted.dtype_name = options.text("dtype", "bf16");
  wanted.dtype = dtype_option(options, "dtype", "bf16");
  wanted.vae_dtype = dtype_option(options, "vae-dtype", "fp32");
  wanted.shard_bytes = shard_size_option(options);
  if (wanted.layout == Layout::comfy && options.has("shard-size"))
    fail_usage("--shard-size: the layout comfy is one file: leave it out");
  if (context.session.rank() != 0) return ExitCode::done;
  check_output(wanted);
  require_part(ModelPart::transformer, part_place(wanted.model, ModelPart::transformer));
  if (wanted.layout != Layout::comfy) warn_of_missing_parts(wanted);
  try {
    if (wanted.layout == Layout::comfy) {
      export_comfy(wanted);
    } else {
      remove_stale_temporaries(fs::absolute(wanted.output).parent_path());  // of an export that was killed
      AtomicFolder folder(wanted.output);
      (wanted.layout == Layout::wan ? export_wan : export_diffusers)(wanted, folder.temporary());
      folder.commit();  // an empty folder of that name gives way
    }
  } catch (const fs::filesystem_error& error) {
    fail_io("{}: {}", wanted.output.string(), error.what());
  }
  log_info("{} holds the model", wanted.output.string());
  return ExitCode::done;
}

}  // namespace

Command export_command() {
  return {
      "export",
      "a model to another layout and dtype",
      run,
      CommandKind::tool,
      {{"model", "PLACE",
        "the model: a folder in any layout, or a file of its transformer (other parts: --model.vae, "
        "--model.text_encoder, --model.tokenizer)",
        true},
       {"output", "PLACE", "folder to make; with the layout comfy a .safetensors file", true},
       {"layout", "NAME", "diffusers (default), wan (the original repository's), comfy (one file)", false},
       {"dtype", "TYPE", "of transformer and text encoder: fp32, bf16 (default) or fp16", false},
       {"vae-dtype", "TYPE", "of the VAE (default fp32: half precision shifts its latents)", false},
       {"shard-size", "SIZE", "tensors of one file at most, as 5GB (default) or 200MB", false}},
      ""};
}

}  // namespace surgery
