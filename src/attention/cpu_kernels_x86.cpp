#include <vector>

#include "attention/cpu_kernels.h"

namespace surgery::cpu {

extern const Kernels avx512_kernels, avx2_kernels;

std::span<const Kernels* const> kernels() {
  static const std::vector<const Kernels*> usable = [] {
    std::vector<const Kernels*> found;
    if (__builtin_cpu_supports("avx512f")) found.push_back(&avx512_kernels);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2_kernels);
    return found;
  }();
  return usable;
}

}  // namespace surgery::cpu
