#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/clip_rules.h"
#include "data/shard_index.h"
#include "recipe/config.h"

namespace surgery {

// What the [data] section says, taken apart.

/// The shapes of the training clips: data.buckets, or the one shape of data.frames, height and width.
std::vector<ClipShape> clip_shapes(const DataSection& data);
/// Buckets and filters. Without data.buckets every clip may be enlarged to the one shape.
ClipRules clip_rules(const DataSection& data);
/// Buckets and filters as shard indices record them; empty = the defaults.
std::string clip_choice(const DataSection& data);
/// What the rules choose with: the same words in `encode` and `encode --check`.
RandomKey subset_key(uint64_t seed);

/// Why an index is not of the clips that this configuration encodes; empty where it is.
std::string index_fault(const ShardIndex& index, const Config& config);

/// One of the sets of latent shards that finetuning draws from.
struct ShardSet {
  std::filesystem::path folder;  ///< empty: what this run encodes
  double weight = 0;             ///< its share, up to the sum of all; 0: by its size
  bool own() const { return folder.empty(); }
};
/// data.shards: `FOLDER[=WEIGHT],...`, the word `own` for the run's; empty = own. Error{usage} naming what is
/// wrong with it.
std::vector<ShardSet> parse_shard_sets(std::string_view text);
/// Whether the run encodes clips of its own.
bool encodes_own(const DataSection& data);

/// What is wrong with finetuning's batch over so many ranks; empty when nothing. With ZeRO-3 every
/// micro-batch communicates, so each rank needs equally many.
std::string batch_fault(const Config& config, int64_t ranks);

}  // namespace surgery
