#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "storage/atomic_file.h"
#include "storage/tensor_store.h"
#include "wan/naming.h"
#include "wan/parameter_check.h"
#include "wan/tensor_names.h"
#include "wan/weights_writer.h"

namespace surgery {

/// The parts of a model that have weights.
enum class ModelPart { transformer, vae, text_encoder };
const char* to_string(ModelPart part);  ///< "transformer", "vae", "text_encoder": diffusers' folders

/// Where one part's weights lie and under which names.
struct PartFiles {
  ModelPart part = ModelPart::transformer;
  Naming naming = Naming::diffusers;
  std::string prefix;                          ///< of every name ("model.diffusion_model." of ComfyUI)
  std::vector<std::filesystem::path> weights;  ///< one file, or all shards
  std::filesystem::path index;                 ///< of the shards; empty: they have none, or there is one file
  std::filesystem::path config;         ///< config.json of the part; empty: sizes follow from the tensors
  std::filesystem::path own_folder;     ///< the folder that is the part's alone; empty: a shared one
  std::filesystem::path place() const;  ///< what messages name
};

/// Looks for a part at `where`, which is one of
///   - a diffusers folder (transformer/, vae/, text_encoder/ inside), or the part's own folder of it;
///   - an original folder of Wan2.1 (weights of all parts in one folder, config.json of the transformer);
///   - one file of weights, or an index of shards.
/// What a file holds is told by its tensors' names, not by its own. None when no weights of this part are
/// there. Error{data} when two candidates are, Error{io} when `where` or a shard is not there.
std::optional<PartFiles> find_part(ModelPart part, const std::filesystem::path& where);
/// The same, or an error that tells what is there: Error{data} weights of other parts, Error{io} none.
PartFiles require_part(ModelPart part, const std::filesystem::path& where);

/// The tensors, mapped, under the names of the file without its prefix.
TensorMap read_part(const PartFiles& files);
/// Checks the tensors against `shapes` (our names) and gives them our names; messages name what the file
/// holds.
TensorMap to_our_names(const PartFiles& files, TensorMap tensors, const TensorNames& names,
                       const ParameterShapes& shapes);

/// Name in a file's metadata of the configuration (JSON as config.json), for layouts without a place for it.
inline constexpr const char* kStoredConfig = "surgery_config";
/// Its text; empty when the weights are not one safetensors file that has it.
std::string stored_config(const PartFiles& files);

/// config.json of a part whose folder holds no weights (a model's sizes alone); empty when there is none.
std::filesystem::path config_alone(ModelPart part, const std::filesystem::path& where);

/// A part's configuration, from where `files` has it; `sizes(where)` tells it from the tensors alone.
template <class Config, class Sizes>
Config part_config(const PartFiles& files, const Sizes& sizes) {
  if (!files.config.empty()) return Config::from_json(read_file(files.config), files.config.string());
  const std::string where = files.place().string(), stored = stored_config(files);
  if (!stored.empty()) return Config::from_json(stored, where + ": its " + kStoredConfig);
  return sizes(where);
}

/// The same of the part at `where`; no weights are needed where a config.json tells it. `config_of(files,
/// tensors)` is part_config of what read_part gives.
template <class Config, class ConfigOf>
Config read_part_config(ModelPart part, const std::filesystem::path& where, const ConfigOf& config_of) {
  if (const auto file = config_alone(part, where); !file.empty())
    return Config::from_json(read_file(file), file.string());
  const PartFiles files = require_part(part, where);
  return config_of(files, read_part(files));
}

/// What is written of a part, whatever its layout.
struct PartContent {
  const LazyTensors& parameters;                                      ///< under our names
  std::function<at::ScalarType(const std::string& parameter)> dtype;  ///< in the file
  std::string config;       ///< our config.json, which also goes inside single files
  std::string config_file;  ///< config.json beside the weights, in the layout asked for
};
/// Weights under the names of `as.naming` and configuration, in `folder`. Error{io}; Error{data} for numbers
/// that the dtype cannot hold.
void save_part(ModelPart part, const TensorNames& names, const PartContent& content,
               const std::filesystem::path& folder, const SaveAs& as);

/// The files whose bytes are the part: all of its own folder, else weights and configuration.
std::vector<std::filesystem::path> content_of(const PartFiles& files);

/// The tokenizer's folder at `where`: tokenizer/, google/umt5-xxl/ (original), or `where` itself.
std::filesystem::path find_tokenizer(const std::filesystem::path& where);

}  // namespace surgery
