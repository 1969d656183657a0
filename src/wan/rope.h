#pragma once
#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// Real dimensions of a head given to time, height and width: h = w = 2*floor(d/6), t the rest
/// (wan21.md 1.3).
std::array<int64_t, 3> rope_split(int64_t head_dim);

/// theta^(-2j/dim) for j = 0 .. dim/2 - 1: each axis is normalised by its own size.
std::vector<double> rope_frequencies(int64_t dim, double theta = 10000.0);

/// exp(i * position * frequency) of every token of a patch grid (frame, row, column; column fastest):
/// complex64 [1, tokens, 1, head_dim / 2], the angles evaluated in fp64.
at::Tensor rope_table(const std::array<int64_t, 3>& grid, int64_t head_dim, at::Device device);

/// Rotates adjacent pairs (2j, 2j+1) of x [batch, tokens, heads, head_dim] by the table. In fp32; result in
/// x's dtype.
at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& table);

/// Tables of the grids met so far, so that the 50 steps of a run build theirs once. Safe to share between
/// threads.
class RopeCache {
 public:
  at::Tensor get(const std::array<int64_t, 3>& grid, int64_t head_dim, at::Device device);

 private:
  struct Entry {
    std::array<int64_t, 3> grid;
    int64_t head_dim;
    at::Device device;
    at::Tensor table;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace surgery
