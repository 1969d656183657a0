#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "storage/tensor_store.h"
#include "wan/naming.h"
#include "wan/parameter_check.h"
#include "wan/tensor_names.h"

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

/// The files whose bytes are the part: all of its own folder, else weights and configuration.
std::vector<std::filesystem::path> content_of(const PartFiles& files);

/// The tokenizer's folder at `where`: tokenizer/, google/umt5-xxl/ (original), or `where` itself.
std::filesystem::path find_tokenizer(const std::filesystem::path& where);

}  // namespace surgery
