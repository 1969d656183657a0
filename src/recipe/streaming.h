#pragma once
#include <string>

#include "base/tensor.h"
#include "recipe/config.h"
#include "recipe/plan.h"

namespace surgery {

/// Share of a rank's memory above which model.stream = auto keeps no weights in memory: the rest is for
/// activations.
inline constexpr double kResidentShare = 0.5;

/// Bytes of the larger of transformer and text encoder, each held whole in its dtype; the recipe never holds
/// both.
double resident_weights(const ModelSizes& sizes, at::ScalarType transformer, at::ScalarType text_encoder);

/// Whether the blocks of transformer and text encoder are streamed from their files. `stream`: of
/// model.stream; `weights`, `memory`: bytes of the weights held whole and of one rank's memory (0 = not
/// known: auto is no).
bool streams_blocks(const std::string& stream, double weights, double memory);

/// Bytes of a rank's memory: run.memory_limit_gib, or the GPU's, or the host's shared by its ranks.
double rank_memory(const Config& config, at::Device device, int64_t ranks_of_host);

}  // namespace surgery
