#include "wan/embeddings.h"

#include <cmath>

namespace surgery {

at::Tensor timestep_sinusoid(const at::Tensor& timestep, int64_t freq_dim) {
  const int64_t half = freq_dim / 2;
  const auto exponent =
      at::arange(half, timestep.options().dtype(at::kFloat)) * -std::log(10000.0) / static_cast<double>(half);
  const auto angles = timestep.to(at::kFloat).unsqueeze(1) * exponent.exp().unsqueeze(0);
  return at::cat({angles.cos(), angles.sin()}, 1);
}

at::Tensor patchify(const at::Tensor& video, const std::vector<int64_t>& patch) {
  const int64_t f = video.size(2) / patch[0], h = video.size(3) / patch[1], w = video.size(4) / patch[2];
  return video.reshape({video.size(0), video.size(1), f, patch[0], h, patch[1], w, patch[2]})
      .permute({0, 2, 4, 6, 1, 3, 5, 7})
      .reshape({video.size(0), f * h * w, video.size(1) * patch[0] * patch[1] * patch[2]});
}

at::Tensor unpatchify(const at::Tensor& tokens, at::IntArrayRef grid, const std::vector<int64_t>& patch) {
  const int64_t batch = tokens.size(0), channels = tokens.size(2) / (patch[0] * patch[1] * patch[2]);
  return tokens.reshape({batch, grid[0], grid[1], grid[2], patch[0], patch[1], patch[2], channels})
      .permute({0, 7, 1, 4, 2, 5, 3, 6})
      .reshape({batch, channels, grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2]});
}

}  // namespace surgery
