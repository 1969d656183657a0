#pragma once
#include <string>

#include "recipe/config.h"
#include "wan/vae.h"

namespace surgery {

/// model.vae_tile and its stride, the default stride filled in.
VaeTiling vae_tiling(const ModelSection& model);
/// Of the VAE's weights and arithmetic: model.vae_precision.
at::ScalarType vae_dtype(const ModelSection& model);
/// Part of the fingerprint of what the VAE makes; empty for the defaults, fp32 and whole frames.
std::string vae_settings_text(const ModelSection& model);
/// A VAE with these settings, on the device.
Vae load_vae(const ModelSection& model, at::Device device);

}  // namespace surgery
