#include "attention/cpu_kernels_impl.h"

namespace surgery::cpu {

extern const Kernels avx2_kernels;
const Kernels avx2_kernels = kernels_of<8, 4, 3>("AVX2");

}  // namespace surgery::cpu
