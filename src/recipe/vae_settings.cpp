#include "recipe/vae_settings.h"

#include <fmt/format.h>

#include "recipe/model_parts.h"

namespace surgery {

VaeTiling vae_tiling(const ModelSection& model) {
  if (model.vae_tile_stride == 0) return VaeTiling::usual(model.vae_tile);
  return {model.vae_tile, model.vae_tile_stride};
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
