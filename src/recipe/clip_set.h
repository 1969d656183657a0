#pragma once
#include <filesystem>
#include <optional>
#include <vector>

#include "data/encode.h"
#include "data/shard_index.h"
#include "recipe/recipe.h"

namespace surgery {

/// The clips that `encode` makes latents of, and what is to be remembered of their choice (an index without
/// shards).
struct ClipSet {
  std::vector<EncodeClip> clips;
  ShardIndex index;
};

/// Collective. Reads the listing, drops what the filters drop, takes data.count of the rest and gives every
/// clip its bucket. Clips whose annotation tells too little are probed, shared out over the ranks; those that
/// then turn out unfit are dropped and not replaced. Rank 0 writes every bad record and drop into `rejects`,
/// a line each. Every rank holds the clips that are taken, about 2 KB each, and nothing of the others. None
/// when a stop was asked for; Error{data} when no clip is usable. `lost`: what was left out before the
/// listing was made, rank 0's.
std::optional<ClipSet> choose_clips(Recipe& recipe, const std::filesystem::path& listing,
                                    const std::vector<RejectedRecord>& lost,
                                    const std::filesystem::path& rejects);

/// What `choose_clips` would fail with before it probes: a listing that cannot be read or leaves no clip.
void check_clips(const Config& config);

}  // namespace surgery
