#include "app/forward.h"
#include "wan/vae.h"

namespace surgery {

// Both directions without normalisation by latents_mean and latents_std, as the reference implementation's
// own calls.
std::vector<Component> vae_components() {
  return {{"vae-encode", "video [B,3,T,H,W] -> mean, logvar",
           [](const std::filesystem::path& model, const TensorMap& input, const CommandLine&) -> TensorMap {
             const auto& video = finite_input(input, "video");
             const auto posterior = Vae::load(model).encode(video);
             return {{"mean", posterior.mean}, {"logvar", posterior.logvar}};
           }},
          {"vae-decode", "latents [B,z,T,H,W] -> video",
           [](const std::filesystem::path& model, const TensorMap& input, const CommandLine&) -> TensorMap {
             const auto& latents = finite_input(input, "latents");
             return {{"video", Vae::load(model).decode(latents)}};
           }}};
}

}  // namespace surgery
