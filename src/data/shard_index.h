#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace surgery {

/// What a folder of latent shards holds: index.json, written when all of it is encoded. Without one, encoding
/// has not come to its end.
struct ShardIndex {
  struct Shard {
    std::string name, fingerprint;  ///< of the file; of its header
    int64_t clips = 0;              ///< in it, or left out of it by name
  };
  std::string source;  ///< as asked for: data.videos
  int64_t count = 0;   ///< clips asked for; 0 = all
  std::vector<Shard> shards;
  int64_t clips() const;
};

std::filesystem::path shard_index_path(const std::filesystem::path& folder);
/// Error{io}, Error{data}.
ShardIndex read_shard_index(const std::filesystem::path& path);
/// Leaves a file that says the same as it is.
void write_shard_index(const std::filesystem::path& path, const ShardIndex& index);

}  // namespace surgery
