#include "attention/cpu_kernels_impl.h"

namespace surgery::cpu {

extern const Kernels avx512_kernels;
const Kernels avx512_kernels = kernels_of<16, 8, 3>("AVX-512");

}  // namespace surgery::cpu
