#pragma once
#include "recipe/config.h"
#include "wan/precision.h"

namespace surgery {

/// model.precision and model.text_precision, `auto` resolved: fp32 on the CPU, bf16 on a GPU (the transformer
/// rounded as diffusers does).
inline std::string precision_name(const ModelSection& model, bool gpu) {
  if (model.precision != "auto") return model.precision;
  return gpu ? "bf16-diffusers" : "fp32";
}
inline at::ScalarType text_precision(const ModelSection& model, bool gpu) {
  const bool bf16 = model.text_precision == "auto" ? gpu : model.text_precision == "bf16";
  return bf16 ? at::kBFloat16 : at::kFloat;  // never fp16: umT5's activations exceed what it can hold
}

}  // namespace surgery
