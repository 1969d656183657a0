#pragma once
#include <cstdint>
#include <span>

namespace surgery::cpu {

/// One head's attention for a run of queries; all fp32, rows of `dim` contiguous numbers.
struct FlashTask {
  int64_t queries = 0, keys = 0, dim = 0;
  float scale = 1;  ///< of the logits
  const float* q = nullptr;
  int64_t q_stride = 0;             ///< floats from one row to the next, here and below
  const float* packed_k = nullptr;  ///< from pack_keys
  const float* v = nullptr;
  int64_t v_stride = 0;
  float* output = nullptr;  ///< normalised
  int64_t output_stride = 0;
  float* lse = nullptr;       ///< one a query
  float* max = nullptr;       ///< one a query, or null
  int64_t* argmax = nullptr;  ///< one a query, or null
  float* scratch = nullptr;   ///< flash_scratch(dim) floats
};

/// Kernels for one instruction set. Queries (or tokens) lie in vector lanes, so that row maxima and sums need
/// no horizontal step, and keys and values are read as scalars where they lie.
struct Kernels {
  const char* name;
  int64_t row_group;    ///< dim must be a multiple of it
  int64_t query_lanes;  ///< queries that are worked on side by side
  int64_t query_block;  ///< queries of a task: any number up to this, best a multiple of query_lanes
  int64_t (*flash_scratch)(int64_t dim);
  int64_t (*packed_keys)(int64_t keys, int64_t dim);  ///< floats that pack_keys writes
  void (*pack_keys)(const float* k, int64_t stride, int64_t keys, int64_t dim, float* packed);
  void (*flash)(const FlashTask& task);
};

/// The kernels that the processor this runs on can execute, best first; empty where there are none
/// (LibTorch's serve).
std::span<const Kernels* const> kernels();

}  // namespace surgery::cpu
