#include "data/latent_statistics.h"

#include <cmath>

#include "base/errors.h"

namespace surgery {

void LatentStatistics::add(const at::Tensor& latents) {
  EXPECT(latents.dim() == 4);
  const at::Tensor channels = latents.to(at::kDouble).flatten(1);
  const at::Tensor sum = channels.sum(1), squares = channels.square().sum(1);
  sum_ = sum_.defined() ? sum_ + sum : sum;
  squares_ = squares_.defined() ? squares_ + squares : squares;
  count_ += static_cast<double>(channels.size(1));
}

double LatentStatistics::raw_evidence(const LatentSpace& space) const {
  if (count_ == 0) return 0;
  EXPECT(sum_.numel() == std::ssize(space.latents_mean));
  double evidence = 0;
  for (size_t c = 0; c < space.latents_mean.size(); ++c) {
    const auto channel = static_cast<int64_t>(c);
    const double mean = sum_[channel].item<double>() / count_;
    const double square = squares_[channel].item<double>() / count_;
    const double mu = space.latents_mean[c], sigma = space.latents_std[c];
    const double raw = std::log(sigma) + (square - 2 * mean * mu + mu * mu) / (2 * sigma * sigma);
    evidence += square / 2 - raw;
  }
  return evidence / static_cast<double>(space.latents_mean.size());
}

}  // namespace surgery
