#pragma once
#include "attention/cpu_kernels.h"
#include "base/tensor.h"

namespace surgery {

/// Checks that q [B,H,N,D], k and v [B,H,M,D] belong together (Error{data} names the shapes).
void check_attention_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

enum class RowMaximum { none, value, value_and_index };

/// What a pass over keys yields for every row of q; logits scaled by 1/sqrt(head_dim).
struct SoftmaxForward {
  at::Tensor output;  ///< [B,H,N,D], dtype of q
  at::Tensor lse;     ///< [B,H,N], fp32 (fp64 for fp64 inputs)
  at::Tensor max;     ///< [B,H,N], like lse; undefined unless asked for
  at::Tensor argmax;  ///< [B,H,N], int64, index into k; undefined unless asked for
};

/// Attention of q over keys k, v (any strides over tokens), memory linear in N and M; no gradient. Takes the
/// fastest of the ways below that serves these inputs.
SoftmaxForward softmax_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               RowMaximum maximum);

/// The flash backward: with P = exp(s - lse), gives dq, dk, dv of grad . (P v), where `output` stands for the
/// row term dot(grad, output). `output` and `lse` need not be those of k and v alone: with the total output
/// and the total log-normaliser of Eq. 5 it is the gradient of the softmax part within the sum.
struct SoftmaxGradients {
  at::Tensor q, k, v;
};
SoftmaxGradients softmax_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& output, const at::Tensor& lse);

// ---- the ways, all the same function

/// This project's CPU kernels: half-width or fp32 inputs, head_dim a multiple of kernels.row_group. One pass
/// also for the maximum, whatever RowMaximum is.
SoftmaxForward cpu_softmax_forward(const cpu::Kernels& kernels, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v, RowMaximum maximum);

/// LibTorch's flash attention (CPU: any floating type; CUDA: fp16, bf16); a maximum costs a pass of its own.
SoftmaxForward stock_softmax_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     RowMaximum maximum);
SoftmaxGradients stock_softmax_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& output, const at::Tensor& lse);

/// Plain tensor operations over tiles of keys: any device, any floating type.
SoftmaxForward tiled_softmax_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     RowMaximum maximum);
SoftmaxGradients tiled_softmax_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& output, const at::Tensor& lse);

}  // namespace surgery
