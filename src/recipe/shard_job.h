#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/encode.h"
#include "data/shard_index.h"
#include "recipe/recipe.h"

namespace surgery {

/// A folder of latent shards to be made, whatever from.
struct ShardJob {
  std::string stage;  ///< in messages: "encode"
  std::filesystem::path folder;
  ShardIndex index;              ///< without its shards: what was asked for
  std::vector<ShardPlan> plans;  ///< equal on every rank
};

/// Files in the job's folder that are named as complete shards and are none of the job's.
std::vector<std::filesystem::path> other_shards(const ShardJob& job);
/// The fingerprint in a shard's header, all of the shard having been read and checked. Error{data}.
std::string verified_fingerprint(const std::filesystem::path& shard);

/// Positions of the plans whose shard is not there yet, or is from other input: that is set aside, as are
/// shards of another choice of clips; what the run's base has is taken. Collective.
std::vector<int64_t> missing_shards(Recipe& recipe, const ShardJob& job);

/// Makes these shards, a unit of work each, over all ranks. When all of the job's are there, the index is
/// written. Returns how many are left: none unless a stop was asked for. Collective.
int64_t make_shards(Recipe& recipe, const ShardJob& job, const std::vector<int64_t>& missing,
                    const std::function<EncodeResult(size_t plan)>& make);

}  // namespace surgery
