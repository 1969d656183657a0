#pragma once
#include <utility>
#include <vector>

#include "attention/feature_map.h"
#include "attention/rate.h"
#include "base/tensor.h"

namespace surgery {

/// The type sums are kept in: fp32 for half-width inputs, the input's own type otherwise.
at::ScalarType accumulation_type(at::ScalarType type);

/// The tokens of T_L(R) of x [B,H,N,D], dense; x's first token must belong to T_S. Linear rate: x itself.
at::Tensor linear_tokens(const at::Tensor& x, Rate rate);

/// Writes `values` (as from linear_tokens) to the places of T_L(R) in x.
void put_linear_tokens(const at::Tensor& x, Rate rate, const at::Tensor& values);

/// Half-open token ranges that keep the activations of one phi within a budget of the device; each range
/// begins with a token of T_S, so that a range is a sequence of its own.
std::vector<std::pair<int64_t, int64_t>> token_tiles(const at::Tensor& x, const FeatureMapConfig& phi,
                                                     Rate rate);

/// Whether phi over x is better done head by head and tile by tile, each on one thread with its activations
/// in that thread's cache, than as tensor operations over all heads: large fp32 maps on the CPU, nothing to
/// differentiate.
bool prefers_thread_tiles(const at::Tensor& x, const FeatureMap& phi);

/// phi of one head, sharing its parameters.
FeatureMap head_of(const FeatureMap& phi, int64_t head);

inline constexpr int64_t thread_tile = 512;  ///< tokens whose activations fit a core's second-level cache

/// Sums over T_L that Eq. 5 needs, in the accumulation type.
struct LinearSums {
  at::Tensor s;  ///< sum_L phi_k(k_j)^T v_j, [B, H, features, D]
  at::Tensor z;  ///< sum_L phi_k(k_j), [B, H, features]
};

/// Tile by tile over tokens; differentiable by autograd when it is on (the graph then keeps every tile's
/// activations).
LinearSums linear_sums(const at::Tensor& k, const at::Tensor& v, const FeatureMap& phi_k, Rate rate);

}  // namespace surgery
