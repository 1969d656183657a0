#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "storage/tensor_store.h"
#include "wan/naming.h"

namespace surgery {

/// How a part is put down.
struct SaveAs {
  Naming naming = Naming::diffusers;
  std::string stem;  ///< of the weights' file; empty: diffusers' own
  uint64_t shard_bytes = std::numeric_limits<uint64_t>::max();  ///< of tensors, in one file at most
  bool config_inside = false;  ///< in the file's metadata (kStoredConfig) instead of a config.json beside it
  int64_t text_length = 512;   ///< for Wan's config.json of the transformer: rows of padded text
};

/// Writes STEM.safetensors, or, where that would exceed `shard_bytes`, STEM-00001-of-0000N.safetensors and
/// their index, as the Hugging Face hub does: filled in the given order, a larger tensor in a shard of its
/// own. Tensors are made and converted a piece at a time. Makes the folder. Error{io}.
void write_weights(const std::filesystem::path& folder, const std::string& stem,
                   const std::vector<SavedTensor>& tensors, uint64_t shard_bytes,
                   std::map<std::string, std::string> metadata = {});

}  // namespace surgery
