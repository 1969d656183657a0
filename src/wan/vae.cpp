#include "wan/vae.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "wan/checkpoint.h"
#include "wan/sizes_from_tensors.h"
#include "wan/tensor_names.h"
#include "wan/vae_layers.h"
#include "wan/vae_tiles.h"

namespace surgery {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Vae::Posterior as_posterior(const at::Tensor& moments) {
  const auto halves = moments.contiguous().chunk(2, 1);
  return {halves[0].contiguous(), halves[1].clamp(-30.0, 20.0)};  // the clamp of diffusers' Gaussian
}

/// The plan itself, or the default: `first`, then `rest` until `total` is reached.
std::vector<int64_t> chunk_plan(std::vector<int64_t> plan, int64_t total, int64_t first, int64_t rest) {
  if (plan.empty()) {
    plan.push_back(first);
    for (int64_t done = first; done < total; done += rest) plan.push_back(rest);
  }
  VALIDATE(std::accumulate(plan.begin(), plan.end(), int64_t{0}) == total,
           "the chunks [{}] do not add up to {} frames: give a plan that covers the clip",
           fmt::join(plan, ", "), total);
  for (size_t i = 0; i < plan.size(); ++i) {
    const int64_t beyond = plan[i] - (i == 0 ? first : 0);
    VALIDATE(
        plan[i] > 0 && beyond >= 0 && beyond % rest == 0,
        "chunk {} has {} frames (only multiples of {} keep the frames together, plus {} in the first): give "
        "another plan",
        i, plan[i], rest, first);
  }
  return plan;
}

void check_video(const at::Tensor& video, const VaeConfig& config) {
  const int64_t time = config.time_stride(), space = config.space_stride();
  VALIDATE(video.dim() == 5 && video.size(0) > 0 && video.size(1) == 3,
           "the video has shape {} (a batch of RGB clips is needed): give [batch, 3, frames, height, width]",
           shape_text(video.sizes()));
  VALIDATE(
      video.size(2) > 0 && (video.size(2) - 1) % time == 0,
      "the clip has {} frames (the VAE takes {}k+1: the first alone, then {} at a time): cut the clip to {}",
      video.size(2), time, time, video.size(2) > 0 ? (video.size(2) - 1) / time * time + 1 : 1);
  VALIDATE(video.size(3) > 0 && video.size(4) > 0 && video.size(3) % space == 0 && video.size(4) % space == 0,
           "frames of {} x {} (height and width must be multiples of {}): crop or resize the clip",
           video.size(3), video.size(4), space);
}

void check_latents(const at::Tensor& latents, const VaeConfig& config) {
  VALIDATE(
      latents.dim() == 5 && latents.numel() > 0 && latents.size(1) == config.z_dim,
      "the latents have shape {} (this VAE has {} latent channels): give [batch, {}, frames, height, width]",
      shape_text(latents.sizes()), config.z_dim, config.z_dim);
}

}  // namespace

VaeTiling VaeTiling::usual(int64_t tile) {
  constexpr int64_t cell = 8;
  return {tile, tile == 0 ? 0 : std::max(cell, tile * 3 / 4 / cell * cell)};
}

Vae::Vae(VaeConfig config, TensorMap parameters)
    : config_(std::move(config)), parameters_(std::move(parameters)) {
  config_.check("VAE configuration");
  check_parameters("VAE", vae_parameter_shapes(config_), parameters_);
  if (config_.latents_mean.empty()) config_.latents_mean.assign(config_.z_dim, 0.0);
  if (config_.latents_std.empty()) config_.latents_std.assign(config_.z_dim, 1.0);
}

namespace {
VaeConfig config_of(const PartFiles& files, const TensorMap& tensors) {
  return part_config<VaeConfig>(files, [&](const std::string& where) { return vae_sizes(tensors, where); });
}
}  // namespace

Vae Vae::load(const std::filesystem::path& where) {
  const PartFiles files = require_part(ModelPart::vae, where);
  TensorMap tensors = read_part(files);
  VaeConfig config = config_of(files, tensors);
  TensorMap parameters =
      to_our_names(files, std::move(tensors), vae_names(config), vae_parameter_shapes(config));
  for (auto& [name, tensor] : parameters) tensor = tensor.to(at::kFloat);
  return Vae(std::move(config), std::move(parameters));
}

VaeConfig Vae::read_config(const std::filesystem::path& where) {
  return read_part_config<VaeConfig>(ModelPart::vae, where, config_of);
}

void save_vae(const VaeConfig& config, const LazyTensors& parameters, const std::filesystem::path& folder,
              at::ScalarType dtype, const SaveAs& as) {
  const PartContent content{parameters, [dtype](const auto&) { return dtype; }, config.to_json(),
                            config.to_json()};
  save_part(ModelPart::vae, vae_names(config), content, folder, as);
}

void Vae::save(const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as) const {
  save_vae(config_, lazy(parameters_), folder, dtype, as);
}

void Vae::to(at::Device device, at::ScalarType dtype) {
  for (auto& [name, tensor] : parameters_)
    tensor = tensor.to(device, dtype, /*non_blocking=*/false, /*copy=*/true);
}

void Vae::set_tiling(const VaeTiling& tiling) {
  const int64_t space = config_.space_stride();
  if (tiling.tile != 0 && (tiling.tile < space || tiling.tile % space != 0))
    fail_usage(
        "a VAE tile of {} pixels (tiles hold whole latent cells): give a multiple of {}, or 0 for none",
        tiling.tile, space);
  if (tiling.tile != 0 &&
      (tiling.stride < space || tiling.stride % space != 0 || tiling.stride > tiling.tile))
    fail_usage(
        "VAE tiles of {} pixels every {} (they must touch and hold whole latent cells): give a stride that "
        "is a multiple of {} and at most the tile",
        tiling.tile, tiling.stride, space);
  tiling_ = tiling;
}

bool Vae::in_tiles(int64_t height, int64_t width) const {
  return tiling_.tile > 0 && std::max(height, width) > tiling_.tile;
}

/// Moments [B, 2 z, t, h, w] of one tile or of the whole picture.
at::Tensor Vae::encode_frames(const at::Tensor& video, const std::vector<int64_t>& plan) const {
  const auto& like = parameters_.begin()->second;
  const VaeNetwork network(config_, parameters_, video.size(0));
  FeatureCache cache(FeatureCache::Memory::keep);
  std::vector<at::Tensor> moments;
  int64_t begin = 0;
  for (const int64_t count : plan) {
    const auto chunk = video.narrow(2, begin, count).to(like.options());
    moments.push_back(network.encode_chunk(chunk, cache));
    begin += count;
  }
  return at::cat(moments, 2);
}

Vae::Posterior Vae::encode(const at::Tensor& video, const std::vector<int64_t>& chunks) const {
  check_video(video, config_);
  const at::NoGradGuard no_gradient;
  const auto plan = chunk_plan(chunks, video.size(2), 1, config_.time_stride());
  const auto part = [&](const at::Tensor& piece) { return encode_frames(piece, plan); };
  if (!in_tiles(video.size(3), video.size(4))) return as_posterior(part(video));
  const int64_t space = config_.space_stride();
  const VaeTiling cells{tiling_.tile / space, tiling_.stride / space};
  return as_posterior(blended_tiles(video, tiling_, cells, part));
}

/// Frames of one tile or of the whole picture, not clamped.
at::Tensor Vae::decode_frames(const at::Tensor& latents, const std::vector<int64_t>& plan) const {
  const auto& like = parameters_.begin()->second;
  const VaeNetwork network(config_, parameters_, latents.size(0));
  FeatureCache cache(FeatureCache::Memory::keep);
  const int64_t time = config_.time_stride(), space = config_.space_stride();
  // Written in place: gathering the pieces at the end would need the video's memory twice.
  const auto video = at::empty({latents.size(0), 3, (latents.size(2) - 1) * time + 1, latents.size(3) * space,
                                latents.size(4) * space},
                               like.options());
  int64_t begin = 0, written = 0;
  for (const int64_t count : plan) {
    const auto chunk = latents.narrow(2, begin, count).to(like.options());
    const auto frames = network.decode_chunk(chunk, cache);
    video.narrow(2, written, frames.size(2)).copy_(frames);
    begin += count;
    written += frames.size(2);
  }
  EXPECT(written == video.size(2));
  return video;
}

at::Tensor Vae::decode(const at::Tensor& latents, const std::vector<int64_t>& chunks) const {
  check_latents(latents, config_);
  const at::NoGradGuard no_gradient;
  const auto plan = chunk_plan(chunks, latents.size(2), 1, 1);
  const auto part = [&](const at::Tensor& piece) { return decode_frames(piece, plan); };
  const int64_t space = config_.space_stride();
  if (!in_tiles(space * latents.size(3), space * latents.size(4))) return part(latents).clamp_(-1.0, 1.0);
  const VaeTiling cells{tiling_.tile / space, tiling_.stride / space};
  return blended_tiles(latents, cells, tiling_, part).clamp_(-1.0, 1.0);
}

Vae::Posterior Vae::encode_whole(const at::Tensor& video) const {
  check_video(video, config_);
  FeatureCache cache(FeatureCache::Memory::none);
  const auto clip = video.to(parameters_.begin()->second.options());
  return as_posterior(VaeNetwork(config_, parameters_, clip.size(0)).encode_chunk(clip, cache));
}

at::Tensor Vae::decode_whole(const at::Tensor& latents) const {
  check_latents(latents, config_);
  FeatureCache cache(FeatureCache::Memory::none);
  const auto clip = latents.to(parameters_.begin()->second.options());
  return VaeNetwork(config_, parameters_, clip.size(0)).decode_chunk(clip, cache);
}

at::Tensor Vae::channel_values(const std::vector<double>& values, const at::Tensor& like) const {
  check_latents(like, config_);
  return at::tensor(values, at::kDouble).to(like.options()).view({-1, 1, 1, 1});
}

at::Tensor Vae::normalize(const at::Tensor& latents) const {
  return (latents - channel_values(config_.latents_mean, latents)) /
         channel_values(config_.latents_std, latents);
}

at::Tensor Vae::denormalize(const at::Tensor& latents) const {
  return latents * channel_values(config_.latents_std, latents) +
         channel_values(config_.latents_mean, latents);
}

}  // namespace surgery
