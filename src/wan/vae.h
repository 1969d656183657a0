#pragma once
#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/random.h"
#include "storage/tensor_store.h"

namespace surgery {

/// vae/config.json (diffusers' AutoencoderKLWan).
struct VaeConfig {
  int64_t base_dim = 96, z_dim = 16, num_res_blocks = 2;
  std::vector<int64_t> dim_mult{1, 2, 4, 4};
  std::vector<bool> temperal_downsample{false, true, true};  // diffusers' spelling
  std::vector<double> latents_mean, latents_std;
  static VaeConfig from_json(const std::string& text, const std::string& where);
  std::string to_json() const;
};

/// Wan2.1's 3D causal VAE (spec wan21.md 5), parameters under diffusers' names.
class Vae {
 public:
  Vae(VaeConfig config, TensorMap parameters);
  static Vae load(const std::filesystem::path& folder);
  void save(const std::filesystem::path& folder, at::ScalarType dtype) const;
  const VaeConfig& config() const { return config_; }
  VaeConfig& config() { return config_; }
  TensorMap& parameters() { return parameters_; }
  const TensorMap& parameters() const { return parameters_; }
  void to(at::Device device, at::ScalarType dtype);

  struct Posterior {
    at::Tensor mean, logvar;  ///< [B, z_dim, (T-1)/4+1, H/8, W/8], not normalised
  };
  /// video [B,3,T,H,W] in [-1,1], T = 4k+1, H and W multiples of 8. Chunks 1,4,4,... with the feature cache.
  Posterior encode(const at::Tensor& video) const;
  /// latents [B,z,T,H,W] (not normalised) -> video [B,3,4T-3,8H,8W] clamped to [-1,1]; one latent frame per call.
  at::Tensor decode(const at::Tensor& latents) const;
  /// The same functions over the whole clip at once (with gradient, for pretraining): unclamped decode.
  Posterior encode_whole(const at::Tensor& video) const;
  at::Tensor decode_whole(const at::Tensor& latents) const;

  at::Tensor normalize(const at::Tensor& latents) const;    ///< (z - mean) / std, per channel
  at::Tensor denormalize(const at::Tensor& latents) const;  ///< z * std + mean

 private:
  VaeConfig config_;
  TensorMap parameters_;
};

/// Every parameter's name and shape at a configuration.
std::map<std::string, std::vector<int64_t>> vae_parameter_shapes(const VaeConfig& config);

}  // namespace surgery
