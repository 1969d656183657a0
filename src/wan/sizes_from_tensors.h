#pragma once
#include <string>

#include "storage/tensor_store.h"
#include "wan/naming.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

// A component's configuration where no config.json tells it: from its tensors' names and shapes. What leaves
// no trace there is Wan2.1's own. `where` begins messages. Error{data} naming the tensor that would be
// needed.

/// Wan's names. Head dim 128, eps 1e-6. A hybrid model needs its config.json.
TransformerConfig transformer_sizes(const TensorMap& tensors, const std::string& where);
/// Wan's names. latents_mean and latents_std are Wan2.1's.
VaeConfig vae_sizes(const TensorMap& tensors, const std::string& where);
/// Either naming. Distances up to 128, eps 1e-6.
TextEncoderConfig text_encoder_sizes(const TensorMap& tensors, Naming naming, const std::string& where);

}  // namespace surgery
