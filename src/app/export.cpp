// A model in another dtype, in the diffusers layout: checked on the way in, complete or absent on the way
// out.
#include <filesystem>

#include "app/command.h"
#include "base/log.h"
#include "storage/atomic_file.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

at::ScalarType parse_dtype(const std::string& option, const std::string& name) {
  if (name == "fp32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  if (name == "fp16") return at::kHalf;
  fail_usage("--{} = {} must be one of fp32, bf16, fp16", option, name);
}

/// Files that are taken over as they are: a folder, or the index of the parts.
void copy_part(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy(from, to, fs::copy_options::recursive, error);
  if (error) fail_io("{}: cannot be copied to {}: {}", from.string(), to.string(), error.message());
}

void export_model(const fs::path& model, const fs::path& output, at::ScalarType dtype,
                  at::ScalarType vae_dtype) {
  Transformer::load(model / "transformer").save(output / "transformer", dtype);
  log_info("transformer written");
  if (fs::exists(model / "vae")) {
    Vae::load(model / "vae").save(output / "vae", vae_dtype);
    log_info("vae written");
  }
  if (fs::exists(model / "text_encoder")) {
    TextEncoder::load(model / "text_encoder").save(output / "text_encoder", dtype);
    log_info("text_encoder written");
  }
  for (const char* part : {"tokenizer", "scheduler", "model_index.json"})
    if (fs::exists(model / part)) copy_part(model / part, output / part);
}

ExitCode run(Context& context) {
  const fs::path model = context.options.text("model");
  fs::path output = context.options.text("output");
  if (!output.has_filename()) output = output.parent_path();  // "out/" is "out"
  const at::ScalarType dtype = parse_dtype("dtype", context.options.text("dtype", "bf16"));
  const at::ScalarType vae_dtype = parse_dtype("vae-dtype", context.options.text("vae-dtype", "fp32"));
  if (context.session.rank() != 0) return ExitCode::done;
  if (!fs::is_directory(model / "transformer"))
    fail_io(
        "{}: there is no transformer/ folder (nothing to export): give the root of a model in the diffusers "
        "layout",
        model.string());
  if (fs::exists(output) && !(fs::is_directory(output) && fs::is_empty(output)))
    fail_usage("{} exists already (it would be overwritten): give another --output, or remove it",
               output.string());
  try {
    remove_stale_temporaries(fs::absolute(output).parent_path());  // of an export that was killed
    AtomicFolder folder(output);
    export_model(model, folder.temporary(), dtype, vae_dtype);
    folder.commit();  // an empty folder of that name gives way
  } catch (const fs::filesystem_error& error) {
    fail_io("{}: {}", output.string(), error.what());
  }
  log_info("{} holds the model", output.string());
  return ExitCode::done;
}

}  // namespace

Command export_command() {
  return {"export",
          "a model to a folder in the diffusers layout and a dtype",
          run,
          CommandKind::tool,
          {{"model", "DIR", "root of the model: transformer/, and vae/, text_encoder/, tokenizer/ if there",
            true},
           {"output", "DIR", "folder to make", true},
           {"dtype", "TYPE", "of transformer and text encoder: fp32, bf16 (default) or fp16", false},
           {"vae-dtype", "TYPE", "of the VAE (default fp32: half precision shifts its latents)", false}},
          ""};
}

}  // namespace surgery
