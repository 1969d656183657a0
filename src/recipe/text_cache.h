#pragma once
#include <string>
#include <vector>

#include "recipe/recipe.h"

namespace surgery {

/// Embeds every prompt that the run (or its base) has no rows of yet, shared out over the ranks, and lets go
/// of the text encoder: from then on no rank needs it for these prompts. The rows of a prompt lie in
/// text/HASH.h5, whose name is a hash of the prompt, the encoder and the tokenizer, so another encoder's are
/// never mistaken for them. Collective; false when a stop was asked for before all are there.
bool prepare_text(Recipe& recipe, std::vector<std::string> prompts);

/// Rows [n, text_dim] of a prompt, fp32, on the CPU, as prepare_text left them. Error{io} where there are
/// none, Error{data} for a damaged file.
at::Tensor text_rows(Recipe& recipe, const std::string& prompt);

}  // namespace surgery
