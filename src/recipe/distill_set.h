#pragma once
#include <string>

#include "recipe/distiller.h"
#include "recipe/recipe.h"

namespace surgery {

DistillPlan recipe_distill_plan(Recipe& recipe);
/// What every block's distillation depends on. Collective on first use.
std::string distill_fingerprint(Recipe& recipe);

}  // namespace surgery
