#pragma once
#include "base/random.h"
#include "storage/tensor_store.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

// Untrained weights of each part under our names, fp32, drawn when asked for. Every tensor has a stream of
// its own, named by `key` and its name, and an element depends on its place alone: so the bits are the same
// whatever is drawn, in whatever pieces and order.

/// What the velocity's projection starts as: zero for training, drawn as the other linears are where the
/// output is to depend on every weight.
enum class InitialHead { zero, drawn };

/// Wan's own: Xavier-uniform linears with zero biases, text and time embedders N(0, 0.02^2), tables
/// N(0, 1) / sqrt(dim), norm weights one; feature maps of hybrid blocks as before distillation.
LazyTensors initial_transformer(const TransformerConfig& config, RandomKey key,
                                InitialHead head = InitialHead::zero);
/// As PyTorch draws a convolution's (uniform within 1/sqrt(fan in)), gains 1.
LazyTensors initial_vae(const VaeConfig& config, RandomKey key);
/// Normal within 1/sqrt(fan in), queries smaller still since nothing divides their products later; outputs of
/// attention and FFN a tenth of that, so that rows stay close to their words; embedding N(0, 1), gains 1.
LazyTensors initial_text_encoder(const TextEncoderConfig& config, RandomKey key);

}  // namespace surgery
