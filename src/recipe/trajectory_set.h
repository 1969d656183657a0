#pragma once
#include <string>
#include <vector>

#include "recipe/artifact.h"
#include "recipe/recipe.h"
#include "recipe/trajectory_file.h"

namespace surgery {

/// Prompts whose teacher runs are cached: `count` for training, then `held_out`.
std::vector<Prompt> trajectory_prompts(const Config& config);
/// What a prompt's trajectory depends on. Collective on first use (hashes of the model).
std::string trajectory_fingerprint_of(Recipe& recipe, const Prompt& prompt, int64_t index);

/// Embeds the prompts of these indices and the negative one (prepare_text). Collective; false when it was
/// stopped.
bool prepare_trajectory_text(Recipe& recipe, const std::vector<int64_t>& indices);

/// The teacher's run for one prompt, in memory. Collective on first use.
Trajectory run_teacher(Recipe& recipe, const Prompt& prompt, int64_t index);

/// Indices of [0, count) whose artifact is missing; looked up on rank 0, the same on every rank. Collective.
template <class Check>
std::vector<int64_t> missing_units(Recipe& recipe, int64_t count, const Check& check) {
  at::Tensor state = at::zeros({std::max<int64_t>(count, 1)}, at::kLong);
  if (recipe.session.rank() == 0)
    for (int64_t i = 0; i < count; ++i) state[i] = check(i) == ArtifactState::missing ? 1 : 0;
  recipe.session.world().broadcast(state, 0);
  std::vector<int64_t> missing;
  for (int64_t i = 0; i < count; ++i)
    if (state[i].template item<int64_t>() == 1) missing.push_back(i);
  return missing;
}

}  // namespace surgery
