#pragma once
#include <string>

#include "recipe/block_file.h"
#include "recipe/distiller.h"
#include "recipe/recipe.h"

namespace surgery {

DistillPlan recipe_distill_plan(Recipe& recipe);
/// What every block's distillation depends on. Collective on first use.
std::string distill_fingerprint(Recipe& recipe);
/// A block that is fully distilled with this configuration. Error{io} where it is not, Error{usage} where it
/// was made with another, Error{data}. Collective on first use.
BlockState read_distilled(Recipe& recipe, int64_t block);

}  // namespace surgery
