#pragma once
#include "recipe/recipe.h"
#include "recipe/selection.h"

namespace surgery {

/// What selection.json depends on: the tables and the settings of the choice. Collective on first use.
std::string selection_fingerprint(Recipe& recipe);
/// The chosen rates (selection.json). Error{io} when there are none, Error{data} when they are not for this
/// teacher, Error{usage} when they were chosen with other settings or from other tables. Collective on first
/// use.
Selection require_selection(Recipe& recipe);

/// The teacher with the selected blocks made hybrid, feature maps as distilled, on the recipe's device; where
/// the teacher's blocks are streamed, the student's are (`streamed`: anyhow). It starts from the files'
/// weights, whatever the teacher computes in.
Transformer make_student(Recipe& recipe, const Selection& selection, Precision precision,
                         bool streamed = false);

/// What the student before finetuning depends on.
std::string student_fingerprint(Recipe& recipe, const Selection& selection);

}  // namespace surgery
