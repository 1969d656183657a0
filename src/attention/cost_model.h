#pragma once
#include <cstdint>

#include "attention/feature_map.h"
#include "attention/rate.h"

namespace surgery {

/// Size of a transformer as the cost model needs it.
struct CostGeometry {
  int64_t tokens = 0;
  int64_t text_tokens = 512;
  int64_t dim = 1536, heads = 12, head_dim = 128, ffn_dim = 8960, blocks = 30;
  int64_t in_channels = 16, out_channels = 16, patch = 4, text_dim = 4096, freq_dim = 256;
};

/// All in FLOPs, 2 per multiply-add, batch 1; norms, RoPE, activations and biases not counted.
double feature_map_flops(const FeatureMapConfig& phi, int64_t tokens);  ///< one phi
int64_t feature_map_parameters(const FeatureMapConfig& phi);            ///< one phi, with biases
double attention_core_flops(const CostGeometry& g, const FeatureMapConfig& phi,
                            Rate rate);              ///< phi in, projections not
double self_attention_flops(const CostGeometry& g);  ///< softmax core and its four projections
double block_flops(const CostGeometry& g);           ///< an all-softmax block
double transformer_flops(const CostGeometry& g);     ///< an all-softmax forward, embeddings and head included
/// Tokens of a clip: ((frames-1)/4+1) * (height/16) * (width/16).
int64_t video_tokens(int64_t frames, int64_t height, int64_t width);

}  // namespace surgery
