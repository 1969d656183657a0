#pragma once
#include "recipe/recipe.h"

namespace surgery {

/// `encode` where data.videos is a WebDataset of latents (data/web_dataset.h): one latent shard of each tar
/// shard. Neither VAE nor text encoder is loaded. Collective; false when it was stopped.
bool make_web_latents(Recipe& recipe);

/// Error{usage}, Error{io} or Error{data} where data.videos cannot be used as such. Looks at one tar shard.
void check_web_dataset(const Config& config);

}  // namespace surgery
