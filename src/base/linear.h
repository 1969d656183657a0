#pragma once
#include "base/tensor.h"

namespace surgery {

/// x [..., in] * weight [out, in]^T + bias [out] (bias may be undefined), differentiable: at::linear. Where
/// it pays (CPU, fp32, a few million multiplications), the products run on oneDNN's kernels: MKL's take no
/// AVX-512 path on processors that are not Intel's, which costs a factor of two.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// a [M,K] * b [K,N], any strides, by the same choice; no gradient.
at::Tensor product(const at::Tensor& a, const at::Tensor& b);

/// Whether a product of these sizes runs on oneDNN (and so is better called once a matrix than batched).
bool product_prefers_onednn(const at::Tensor& like, int64_t m, int64_t k, int64_t n);

}  // namespace surgery
