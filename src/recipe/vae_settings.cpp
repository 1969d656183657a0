#include "recipe/vae_settings.h"

#include <fmt/format.h>

#include <algorithm>

#include "recipe/model_parts.h"

namespace surgery {

VaeTiling vae_tiling(const ModelSection& model) {
  constexpr int64_t kCell = 8;
  VaeTiling tiling{model.vae_tile, model.vae_tile_stride};
  if (tiling.tile > 0 && tiling.stride == 0)
    tiling.stride = std::max(kCell, tiling.tile * 3 / 4 / kCell * kCell);
  return tiling;
}

at::ScalarType vae_dtype(const ModelSection& model) {
  return model.vae_precision == "bf16" ? at::kBFloat16 : at::kFloat;
}

std::string vae_settings_text(const ModelSection& model) {
  const VaeTiling tiling = vae_tiling(model);
  std::string text;
  if (vae_dtype(model) != at::kFloat) text += " vae " + model.vae_precision;
  if (tiling.tile > 0) text += fmt::format(" vae tiles {} {}", tiling.tile, tiling.stride);
  return text;
}

Vae load_vae(const ModelSection& model, at::Device device) {
  Vae vae = Vae::load(required_place(model, ModelPart::vae));
  vae.to(device, vae_dtype(model));
  vae.set_tiling(vae_tiling(model));
  return vae;
}

}  // namespace surgery
