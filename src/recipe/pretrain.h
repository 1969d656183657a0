#pragma once
#include <filesystem>
#include <functional>

#include "recipe/pretrain_transformer.h"
#include "recipe/pretrain_vae.h"

namespace surgery {

/// The small teacher from nothing: Wan2.1 in every part, at a size that two cores can train.
struct Pretraining {
  VaePretraining vae;
  PretrainTransformerOptions transformer;
  int64_t text_dim = 64, text_length = 32;
  int64_t latent_clips = 128;  ///< clips over which latents_mean and latents_std are measured
  int64_t score_clips = 128;   ///< of the closing score; 0 = none
};

/// Tokenizer and frozen random umT5, VAE, latents, transformer, in this order; each phase is kept in `work`
/// and continued from there, so that a second call finishes what a first one began; Error{usage} when it asks
/// for other settings. Then writes `output` in the diffusers layout (bf16). Deterministic for a given number
/// of threads. When `stop` (polled between steps) asks for it, commits and throws Error{requeue}.
void pretrain_teacher(const Pretraining& settings, const std::filesystem::path& output,
                      const std::filesystem::path& work, at::Device device,
                      const std::function<bool()>& stop);

}  // namespace surgery
