#pragma once
#include <vector>

#include "base/tensor.h"
#include "data/latent_shard.h"

namespace surgery {

/// Mean and variance of each channel over many clips, which tell normalised latents from a VAE's own output.
class LatentStatistics {
 public:
  void add(const at::Tensor& latents);  ///< [channels, T, H, W], finite
  /// By how much the latents are likelier to be raw, N(latents_mean, latents_std), than normalised, N(0, 1):
  /// logarithm of the ratio of likelihoods, a number, nats. Wan2.1's are about +1.5 raw and -0.4 normalised.
  /// 0 without clips, and for a VAE without statistics, where both are the same.
  double raw_evidence(const LatentSpace& space) const;

 private:
  double count_ = 0;  // numbers of one channel
  at::Tensor sum_, squares_;
};

/// Above this the latents are taken as raw: far from what either kind gives, even over one clip.
inline constexpr double kRawEvidence = 0.1;

}  // namespace surgery
