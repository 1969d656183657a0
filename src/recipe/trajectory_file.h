#pragma once
#include <filesystem>
#include <string>

#include "base/tensor.h"

namespace surgery {

/// A teacher's run for one prompt: what the `latent` source replays.
struct Trajectory {
  std::string prompt, fingerprint;
  at::Tensor latents;        ///< [steps, 16, T, H, W], bf16: the model's input at every step, normalised
  at::Tensor final_latents;  ///< [16, T, H, W], bf16
  at::Tensor timesteps;      ///< [steps], fp64, 0..1000
  at::Tensor text;           ///< [n, text_dim], fp32, rows of the prompt
  at::Tensor negative_text;  ///< [m, text_dim], fp32
};

void write_trajectory(const std::filesystem::path& path, const Trajectory& trajectory);
/// Full checksum. Throws Error{data} for a damaged or foreign file.
Trajectory read_trajectory(const std::filesystem::path& path);
/// Fingerprint only; Error{data} as above (every dataset's checksum is verified).
std::string trajectory_fingerprint(const std::filesystem::path& path);

}  // namespace surgery
