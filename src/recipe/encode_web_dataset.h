#pragma once
#include "recipe/check_set.h"
#include "recipe/recipe.h"

namespace surgery {

/// `encode` where data.videos is a WebDataset of latents (data/web_dataset.h): one latent shard of each tar
/// shard. Neither VAE nor text encoder is loaded. Collective; false when it was stopped.
bool make_web_latents(Recipe& recipe);

/// Collective: goes through such a set as `encode` would, a tar shard a rank at a time, without a model and
/// without writing anything. Shapes are those of the model that model.path or model.config names, or else
/// Wan2.1's own. `rejects` as in check_set. Error{usage} or Error{io} as check_web_dataset.
SetReport check_web_latents(Session& session, const Config& config, const std::filesystem::path& rejects);

/// Error{usage}, Error{io} or Error{data} where data.videos cannot be used as such. Looks at tar
/// shards until one holds a sample.
void check_web_dataset(const Config& config);

}  // namespace surgery
