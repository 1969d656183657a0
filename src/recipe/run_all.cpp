#include "base/log.h"
#include "recipe/recipe.h"

namespace surgery {

bool make_everything(Recipe& recipe) {
  const auto stages = {make_trajectories, make_distillation, make_tables,  make_selection,  make_latents,
                       make_finetuning,   make_model,        make_samples, make_evaluation, make_report};
  for (const auto& stage : stages) {
    // Every rank sees the same answer: a stage's stop is agreed inside it.
    if (!stage(recipe)) return false;
    const bool stop =
        recipe.session.world().all_reduce_value(recipe.stop_requested() ? 1 : 0, Reduction::max) > 0;
    if (stop) return false;
  }
  return true;
}

}  // namespace surgery
