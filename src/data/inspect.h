#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace surgery {

/// Tells what a file is, found by its content before its suffix, and what it holds: safetensors, files of
/// torch.save, this program's HDF5 artifacts (every checksum verified), latent shards, videos, annotations
/// and their listings, prompt lists, other JSON, tables (.csv); models (data/inspect_model.h); of another
/// folder, the kind and size of each file. First key: `kind`. Throws Error{data} for a damaged or unknown
/// file, Error{io} for an unreadable one.
nlohmann::ordered_json inspect_file(const std::filesystem::path& path);

/// The same for a person: `key: value` lines, lists of equal objects as tables.
std::string inspection_text(const nlohmann::ordered_json& inspection);

}  // namespace surgery
