#include "recipe/model_parts.h"

#include <algorithm>

#include "base/errors.h"
#include "wan/pipeline_files.h"
#include "wan/text_encoder.h"
#include "wan/vae.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

fs::path place_of(const ModelSection& model, const std::string& own, bool file_holds_it) {
  if (!own.empty()) return own;
  return file_holds_it || fs::is_directory(model.path) || !fs::exists(model.path) ? model.path : "";
}

fs::path required(const ModelSection& model, const fs::path& place, const char* option) {
  if (!place.empty()) return place;
  if (model.path.empty()) fail_usage("neither model.path nor {} is set: give the model", option);
  fail_usage("{} is not set, and model.path = {} is one file (it holds the transformer alone): give --{}",
             option, model.path, option);
}

}  // namespace

fs::path part_place(const ModelSection& model, ModelPart part) {
  if (part == ModelPart::transformer) return place_of(model, model.transformer, true);
  return place_of(model, part == ModelPart::vae ? model.vae : model.text_encoder, false);
}

fs::path tokenizer_place(const ModelSection& model) {
  return place_of(model, model.tokenizer, false);
}

fs::path required_place(const ModelSection& model, ModelPart part) {
  const std::string option = std::string("model.") + to_string(part);
  return required(model, part_place(model, part), option.c_str());
}

fs::path required_tokenizer_place(const ModelSection& model) {
  return required(model, tokenizer_place(model), "model.tokenizer");
}

std::vector<fs::path> tokenizer_content(const fs::path& place) {
  const fs::path folder = find_tokenizer(place);
  if (!fs::exists(folder / "spiece.model"))
    fail_io(
        "{}: no spiece.model is there (the tokenizer is read from it): check model.path or model.tokenizer",
        folder.string());
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

std::vector<fs::path> pipeline_files(const ModelSection& model) {
  std::vector<fs::path> files;
  for (const char* name : {"model_index.json", "scheduler/scheduler_config.json"})
    if (!model.path.empty() && fs::exists(fs::path(model.path) / name))
      files.push_back(fs::path(model.path) / name);
  return files;
}

void copy_whole(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_directories(to.parent_path(), error);
  if (!error) fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing, error);
  if (error) fail_io("{}: cannot be copied to {}: {}", from.string(), to.string(), error.message());
}

void write_other_parts(const ModelSection& model, const fs::path& folder) {
  for (const ModelPart part : {ModelPart::vae, ModelPart::text_encoder}) {
    const fs::path place = required_place(model, part);
    const auto files = find_part(part, place);
    if (!files) continue;
    const fs::path target = folder / to_string(part);
    if (!files->own_folder.empty() && files->naming == Naming::diffusers) {
      copy_whole(files->own_folder, target);
    } else if (part == ModelPart::vae) {
      Vae::load(place).save(target, at::kFloat);
    } else {
      TextEncoder encoder = TextEncoder::load(place);
      encoder.save(target, common_dtype(encoder.parameters()));
    }
  }
  copy_whole(find_tokenizer(required_tokenizer_place(model)), folder / "tokenizer");
  write_pipeline_files(folder);
  for (const fs::path& file : pipeline_files(model))
    copy_whole(file, folder / fs::relative(file, model.path));
}

}  // namespace surgery
