#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

namespace surgery {

/// What a model's folder holds, in any layout (wan/checkpoint.h): of every part its layout, tensors,
/// parameters, bytes, dtypes and sizes, and the tokenizer. Each part is checked as for use. None where
/// nothing of a model lies there. Throws Error{data} for a part that does not fit its configuration, or is
/// damaged.
std::optional<nlohmann::ordered_json> inspect_model(const std::filesystem::path& folder);

}  // namespace surgery
