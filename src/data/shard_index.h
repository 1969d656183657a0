#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/clip_window.h"

namespace surgery {

/// What a folder of latent shards holds: index.json, written when all of it is encoded. Without one, encoding
/// has not come to its end.
struct ShardIndex {
  struct Shard {
    std::string name, fingerprint;  ///< of the file; of its header
    int64_t clips = 0;              ///< in it, or left out of it by name
  };
  std::string source;       ///< as asked for: data.videos
  int64_t count = 0;        ///< clips asked for; 0 = all
  std::string choice = {};  ///< as asked for: buckets and filters; empty = none
  /// Which records were taken, for whoever wants to repeat it.
  struct Subset {
    std::string rule = {};  ///< ClipListing::kRule, or where the clips come from otherwise
    uint64_t seed = 0;
    int64_t records = 0, usable = 0, taken = 0;  ///< listed; left by the filters; chosen
    std::string hash = {};                       ///< XXH3-128 of the chosen records' lines, see subset_line
  };
  Subset subset = {};
  std::vector<Shard> shards = {};
  int64_t clips() const;
};

/// A chosen record's line in the text that Subset::hash is of: `path<TAB>first frame<TAB>last frame`, the
/// frames of its cut or 0 and -1.
std::string subset_line(const std::string& id, const std::optional<FrameRange>& cut);

std::filesystem::path shard_index_path(const std::filesystem::path& folder);
/// Error{io}, Error{data}.
ShardIndex read_shard_index(const std::filesystem::path& path);
/// Leaves a file that says the same as it is.
void write_shard_index(const std::filesystem::path& path, const ShardIndex& index);

}  // namespace surgery
