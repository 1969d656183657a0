#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/tensor.h"
#include "storage/tensor_store.h"
#include "wan/weights_writer.h"

namespace surgery {

/// vae/config.json (diffusers' AutoencoderKLWan). Every size comes from here; the defaults are Wan2.1's.
struct VaeConfig {
  int64_t base_dim = 96, z_dim = 16, num_res_blocks = 2;
  int64_t decoder_base_dim = 0;  ///< 0: as base_dim (null in the file)
  std::vector<int64_t> dim_mult{1, 2, 4, 4};
  std::vector<bool> temperal_downsample{false, true,
                                        true};    ///< diffusers' spelling; one per step between levels
  std::vector<double> latents_mean, latents_std;  ///< z_dim each; empty: 0 and 1

  /// Reads and checks a config.json; `where` names it in messages. Throws Error{data}.
  static VaeConfig from_json(const std::string& text, const std::string& where);
  std::string to_json() const;
  /// Throws Error{data} naming `where` for a size that no VAE can have, or a value that is not finite.
  void check(const std::string& where) const;
  /// latents_mean and latents_std become Wan2.1's own. Error{data} when z_dim is not Wan2.1's.
  void set_wan_statistics(const std::string& where);
  int64_t time_stride() const;   ///< frames per latent frame: 4
  int64_t space_stride() const;  ///< pixels per latent row or column: 8
};

/// Writes config.json and weights into `folder`; `parameters` under our names. Error{io}.
void save_vae(const VaeConfig& config, const LazyTensors& parameters, const std::filesystem::path& folder,
              at::ScalarType dtype, const SaveAs& as = {});

/// Square tiles that a frame is cut into, so that memory follows the tile's size instead of the frame's;
/// pixels, multiples of the VAE's stride. Neighbours overlap by tile - stride and are blended there, which
/// changes the result slightly. 0: none.
struct VaeTiling {
  int64_t tile = 0, stride = 0;
  /// The usual overlap: a stride of three quarters of the tile, in whole pixels of latents.
  static VaeTiling usual(int64_t tile);
};

/// Wan2.1's 3D causal VAE, parameters under diffusers' names. The functions convert their input to the
/// parameters' dtype and device. Throws Error{data} for inputs whose shape does not fit.
class Vae {
 public:
  /// Checks that `parameters` has exactly the names and shapes of `config`.
  Vae(VaeConfig config, TensorMap parameters);
  /// From wherever find_part (wan/checkpoint.h) finds it, in any layout. Parameters become fp32 on the CPU,
  /// whatever the file's dtype: both reference implementations run this VAE in fp32.
  static Vae load(const std::filesystem::path& where);
  /// Its configuration alone; no weights are needed where a vae/config.json tells it.
  static VaeConfig read_config(const std::filesystem::path& where);
  /// Initial weights for pretraining (wan/initial_weights.h).
  static Vae random(const VaeConfig& config, RandomKey key);
  /// As save_vae.
  void save(const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as = {}) const;
  const VaeConfig& config() const { return config_; }
  VaeConfig& config() { return config_; }
  TensorMap& parameters() { return parameters_; }
  const TensorMap& parameters() const { return parameters_; }
  /// From now on larger frames are encoded and decoded in tiles, as diffusers' enable_tiling does it.
  /// Error{usage} for sizes that are no tiles.
  void set_tiling(const VaeTiling& tiling);
  /// Converts to memory of its own; what `load` gives may be the file's read-only mapping.
  void to(at::Device device, at::ScalarType dtype);

  struct Posterior {
    at::Tensor mean, logvar;  ///< [B, z_dim, (T-1)/4+1, H/8, W/8], not normalised; logvar within [-30, 20]
  };
  /// video [B,3,T,H,W] in [-1,1], T = 4k+1, H and W multiples of 8. Chunks 1,4,4,... with the feature cache;
  /// no gradient. `chunks`: another plan of frame counts (first 4k+1, then multiples of 4), same result.
  Posterior encode(const at::Tensor& video, const std::vector<int64_t>& chunks = {}) const;
  /// latents [B,z,T,H,W] (not normalised) -> video [B,3,4T-3,8H,8W] clamped to [-1,1]; one latent frame at a
  /// time; no gradient. `chunks`: another plan of latent frame counts, same result.
  at::Tensor decode(const at::Tensor& latents, const std::vector<int64_t>& chunks = {}) const;
  /// The same functions over the whole clip at once (with gradient, for pretraining): unclamped decode.
  Posterior encode_whole(const at::Tensor& video) const;
  at::Tensor decode_whole(const at::Tensor& latents) const;

  at::Tensor normalize(const at::Tensor& latents) const;    ///< (z - mean) / std, per channel (axis 1)
  at::Tensor denormalize(const at::Tensor& latents) const;  ///< z * std + mean

 private:
  at::Tensor channel_values(const std::vector<double>& values, const at::Tensor& like) const;
  bool in_tiles(int64_t height, int64_t width) const;
  at::Tensor encode_frames(const at::Tensor& video, const std::vector<int64_t>& plan) const;
  at::Tensor decode_frames(const at::Tensor& latents, const std::vector<int64_t>& plan) const;

  VaeConfig config_;
  VaeTiling tiling_;
  TensorMap parameters_;
};

/// Every parameter's name and shape at a configuration.
std::map<std::string, std::vector<int64_t>> vae_parameter_shapes(const VaeConfig& config);

}  // namespace surgery
