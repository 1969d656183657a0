#pragma once
#include "wan/vae.h"

namespace surgery {

/// Bytes that encoding or decoding takes beside weights, input and result: the feature cache and the largest
/// sum of tensors that are alive at once in a chunk. They do not grow with the frames, and with tiles not
/// with the picture. `height` x `width` in pixels; `bytes` of an element. Follows wan/vae_layers.cpp without
/// gradient, one clip.
double vae_encode_memory(const VaeConfig& config, int64_t frames, int64_t height, int64_t width,
                         const VaeTiling& tiling, double bytes);
double vae_decode_memory(const VaeConfig& config, int64_t frames, int64_t height, int64_t width,
                         const VaeTiling& tiling, double bytes);

}  // namespace surgery
