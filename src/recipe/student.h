#pragma once
#include "recipe/recipe.h"
#include "recipe/selection.h"

namespace surgery {

/// The chosen rates (selection.json).
Selection read_selection(Recipe& recipe);

/// The teacher with the selected blocks made hybrid, feature maps as distilled. fp32 on the recipe's device.
Transformer make_student(Recipe& recipe, const Selection& selection);

/// What the student before finetuning depends on.
std::string student_fingerprint(Recipe& recipe, const Selection& selection);

}  // namespace surgery
