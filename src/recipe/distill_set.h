#pragma once
#include <string>

#include "recipe/block_file.h"
#include "recipe/distiller.h"
#include "recipe/recipe.h"

namespace surgery {

DistillPlan recipe_distill_plan(Recipe& recipe);
/// What every block's distillation depends on. Collective on first use.
std::string distill_fingerprint(Recipe& recipe);
/// A block that is fully distilled. Error{io} where it is not, Error{usage} where its fingerprint is not
/// `expected` (distill_fingerprint), Error{data}.
BlockState read_distilled(const Recipe& recipe, int64_t block, const std::string& expected);

}  // namespace surgery
