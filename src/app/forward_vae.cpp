#include "app/forward.h"
#include "wan/vae.h"

namespace surgery {
namespace {

std::shared_ptr<const Vae> load(const std::filesystem::path& model, const CommandLine& options) {
  const int64_t tile = options.integer("tile", 0);
  VaeTiling tiling = VaeTiling::usual(tile);
  if (options.has("tile-stride")) tiling.stride = options.integer("tile-stride", 0);
  if (tile == 0 && options.has("tile-stride"))
    fail_usage("--tile-stride does nothing without --tile: give both");
  const auto vae = std::make_shared<Vae>(Vae::load(model));
  vae->set_tiling(tiling);
  const auto device = device_option(options);
  const auto precision = precision_option(options);
  // What is loaded is the file's own memory: not copied where it may stay as it is.
  if (!device.is_cpu() || precision != at::kFloat) vae->to(device, precision);
  return vae;
}

}  // namespace

// Both directions without normalisation by latents_mean and latents_std, as the reference implementation's
// own calls. Results are fp32 on the CPU.
std::vector<Component> vae_components() {
  return {{"vae-encode", "video [B,3,T,H,W] -> mean, logvar",
           [](const std::filesystem::path& model, const TensorMap& input, const CommandLine& options) {
             const auto& video = finite_input(input, "video");
             return [video, vae = load(model, options)]() -> TensorMap {
               const auto posterior = vae->encode(video);
               return {{"mean", posterior.mean.to(at::kCPU, at::kFloat)},
                       {"logvar", posterior.logvar.to(at::kCPU, at::kFloat)}};
             };
           }},
          {"vae-decode", "latents [B,z,T,H,W] -> video",
           [](const std::filesystem::path& model, const TensorMap& input, const CommandLine& options) {
             const auto& latents = finite_input(input, "latents");
             return [latents, vae = load(model, options)]() -> TensorMap {
               return {{"video", vae->decode(latents).to(at::kCPU, at::kFloat)}};
             };
           }}};
}

}  // namespace surgery
