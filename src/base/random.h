#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "base/tensor.h"

namespace surgery {

/// Names one random stream: the same key gives the same numbers on every device, rank count and run.
/// Counter-based (Philox4x32-10, Salmon et al. 2011): number n of a stream needs no state but (key, n).
struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;

  /// A key for a part of this stream: by number (a prompt, a step) or by word ("noise", "sigma").
  RandomKey with(uint64_t index) const;
  RandomKey with(std::string_view word) const;
};

/// Four words of Philox4x32-10 at `counter` of the stream.
std::array<uint32_t, 4> philox(RandomKey key, uint64_t counter);

/// Sequential draws from one stream, for host-side choices (indices, sigmas, dropout).
class RandomStream {
 public:
  explicit RandomStream(RandomKey key) : key_(key) {}
  uint32_t next();
  double uniform();              ///< [0, 1), 53 bits
  double normal();               ///< N(0, 1), Box-Muller
  int64_t below(int64_t bound);  ///< uniform integer in [0, bound)

 private:
  RandomKey key_;
  uint64_t counter_ = 0;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
};

/// fp32 CPU tensors of the given shape filled from the stream (element i depends on key and i only).
at::Tensor random_normal(RandomKey key, at::IntArrayRef shape);
at::Tensor random_uniform(RandomKey key, at::IntArrayRef shape);
/// Their elements [begin, end) alone, flat; `begin` is a multiple of 4.
at::Tensor random_normal(RandomKey key, int64_t begin, int64_t end);
at::Tensor random_uniform(RandomKey key, int64_t begin, int64_t end);

}  // namespace surgery
