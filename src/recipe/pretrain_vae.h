#pragma once
#include <filesystem>
#include <functional>

#include "base/random.h"
#include "base/tensor.h"
#include "data/shapes_score.h"
#include "wan/vae.h"

namespace surgery {

struct VaePretraining {
  int64_t steps = 3000;
  int64_t batch = 4, frames = 9, crop = 48;  ///< clips a step, frames, pixels a side
  double learning_rate = 1.5e-3;
  double latent_noise = 0.03;
  int64_t report_every = 200, save_every = 100;  ///< steps
  at::Device device = at::kCPU;
};

/// The small teacher's VAE: Wan2.1's, 8 channels wide, one residual block a level, 16 latent channels.
VaeConfig small_vae_config();

/// Initial weights from which colour is learnt: the main path is near the identity (Dirac taps on the current
/// frame; averages where it shrinks), residual branches start small, and one channel behind each conv_in is a
/// constant, so that the RMS norms do not take the amplitude away.
Vae initial_vae(const VaeConfig& config, RandomKey key);

/// Trains on crops of shapes clips and of clips with random colours and motion; commits its state to
/// `work`/vae.safetensors and continues from there. When `stop` (polled between steps) asks
/// for it, commits and throws Error{requeue}.
Vae pretrain_vae(const VaePretraining& settings, RandomKey key, const std::filesystem::path& work,
                 const std::function<bool()>& stop = {});

/// Writes per-channel mean and standard deviation of the latents of `clips` training clips into the
/// configuration.
void measure_latents(Vae& vae, int64_t clips, uint64_t seed);

struct ReconstructionQuality {
  double psnr = 0;  ///< dB over whole clips, mean over clips
  ShapesScore score;
};
/// Whole evaluation clips encoded and decoded chunk by chunk.
ReconstructionQuality reconstruct_shapes(const Vae& vae, int64_t clips, uint64_t seed);

}  // namespace surgery
