#pragma once
#include "base/tensor.h"

namespace surgery {

/// a [B,H,M,K] * b [B,H,K,N], matrix by matrix, differentiable: at::matmul, with large fp32 products on the
/// CPU made by product() of base/linear.h.
at::Tensor grouped_product(const at::Tensor& a, const at::Tensor& b);

}  // namespace surgery
