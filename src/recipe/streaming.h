#pragma once
#include <string>

#include "base/tensor.h"
#include "recipe/config.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"

namespace surgery {

/// Share of a rank's memory above which model.stream = auto keeps no weights in memory: generation holds a
/// teacher and a student.
inline constexpr double kResidentShare = 0.5;

/// Bytes of the larger of transformer and text encoder, held whole at so many bytes an element; the recipe
/// never holds both.
double resident_weights(const TransformerConfig& transformer, const TextEncoderConfig& text_encoder,
                        double bytes_per_element);

/// Whether the blocks of transformer and text encoder are streamed from their files. `stream`: of
/// model.stream; `weights`, `memory`: bytes of the weights held whole and of one rank's memory (0 = not
/// known: auto is no).
bool streams_blocks(const std::string& stream, double weights, double memory);

/// Bytes of this machine's memory.
double host_memory();
/// Bytes of a rank's memory: run.memory_limit_gib, or the GPU's, or the host's shared by its ranks.
double rank_memory(const Config& config, at::Device device, int64_t ranks_of_host);

}  // namespace surgery
