#pragma once
#include <filesystem>
#include <vector>

#include "recipe/config.h"
#include "wan/checkpoint.h"

namespace surgery {

/// Where a part of the model is to be looked for: its own option, or else model.path. Empty when that is one
/// file, which holds the transformer alone, or when nothing is set.
std::filesystem::path part_place(const ModelSection& model, ModelPart part);
std::filesystem::path tokenizer_place(const ModelSection& model);
/// The same; Error{usage} that names the option when there is no place.
std::filesystem::path required_place(const ModelSection& model, ModelPart part);
std::filesystem::path required_tokenizer_place(const ModelSection& model);

/// The files of a tokenizer. Error{io} when there is none.
std::vector<std::filesystem::path> tokenizer_content(const std::filesystem::path& place);

/// model_index.json and scheduler/scheduler_config.json, where model.path has them.
std::vector<std::filesystem::path> pipeline_files(const ModelSection& model);

/// Copies a file, or a folder with all in it, over what is there. Error{io}.
void copy_whole(const std::filesystem::path& from, const std::filesystem::path& to);

/// What a model's folder holds besides the transformer, in the diffusers layout: parts that are in it are
/// copied, others are converted in their own dtype (the VAE in fp32).
void write_other_parts(const ModelSection& model, const std::filesystem::path& folder);

}  // namespace surgery
