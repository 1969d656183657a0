#pragma once
#include <cstdint>

#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

// Sizes and FLOPs of the model's parts from their configurations alone: 2 FLOPs per multiply-add; norms,
// activations and biases not counted.

int64_t parameter_count(const TransformerConfig& config);
int64_t parameter_count(const VaeConfig& config);
int64_t parameter_count(const TextEncoderConfig& config);

/// Bytes of the transformer's parameters, each held as the precision holds it.
double parameter_bytes(const TransformerConfig& config, Precision precision);

/// Encoding or decoding one clip of frames x height x width pixels (convolutions and the middle's attention).
double vae_encode_flops(const VaeConfig& config, int64_t frames, int64_t height, int64_t width);
double vae_decode_flops(const VaeConfig& config, int64_t frames, int64_t height, int64_t width);
/// One prompt of `tokens` tokens.
double text_encoder_flops(const TextEncoderConfig& config, int64_t tokens);

}  // namespace surgery
