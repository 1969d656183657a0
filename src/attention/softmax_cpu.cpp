#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "attention/softmax_kernels.h"
#include "base/errors.h"

namespace surgery {
namespace {

/// fp32 with dense rows; the token stride stays as it is.
at::Tensor dense_rows(const at::Tensor& x) {
  const at::Tensor y = x.to(at::kFloat);
  return y.stride(3) == 1 || y.size(3) == 1 ? y : y.contiguous();
}

}  // namespace

SoftmaxForward cpu_softmax_forward(const cpu::Kernels& kernels, const at::Tensor& q_any,
                                   const at::Tensor& k_any, const at::Tensor& v_any, RowMaximum maximum) {
  const at::Tensor q = dense_rows(q_any), k = dense_rows(k_any), v = dense_rows(v_any);
  const int64_t heads = q.size(1), pairs = q.size(0) * heads, queries = q.size(2), keys = k.size(2),
                dim = q.size(3);
  EXPECT(dim % kernels.row_group == 0);
  const auto options = q.options();
  SoftmaxForward result;
  at::Tensor output = at::empty({q.size(0), heads, queries, dim}, options);
  result.lse = at::empty({q.size(0), heads, queries}, options);
  if (maximum != RowMaximum::none) result.max = at::empty_like(result.lse);
  if (maximum == RowMaximum::value_and_index) result.argmax = at::empty_like(result.lse, at::kLong);

  const auto row = [heads](const at::Tensor& x, int64_t pair) {
    return x.const_data_ptr<float>() + pair / heads * x.stride(0) + pair % heads * x.stride(1);
  };
  const int64_t packed = kernels.packed_keys(keys, dim);
  const at::Tensor packed_keys = at::empty({pairs, packed}, options);
  float* const packed_data = packed_keys.mutable_data_ptr<float>();
  at::parallel_for(0, pairs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair)
      kernels.pack_keys(row(k, pair), k.stride(2), keys, dim, packed_data + pair * packed);
  });

  // Full query blocks read keys and values least often; short inputs are cut finer so that every thread has
  // work.
  const int64_t wanted = 4 * at::get_num_threads();
  const int64_t finest = (queries + kernels.query_lanes - 1) / kernels.query_lanes;
  const int64_t lanes_a_task =
      std::clamp<int64_t>(finest * pairs / wanted, 1, kernels.query_block / kernels.query_lanes);
  const int64_t block = lanes_a_task * kernels.query_lanes, blocks = (queries + block - 1) / block;
  at::parallel_for(0, pairs * blocks, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({kernels.flash_scratch(dim)}, options);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t pair = task / blocks, first = task % blocks * block, at = pair * queries + first;
      cpu::FlashTask t;
      t.queries = std::min(block, queries - first);
      t.keys = keys;
      t.dim = dim;
      t.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
      t.q = row(q, pair) + first * q.stride(2);
      t.q_stride = q.stride(2);
      t.packed_k = packed_data + pair * packed;
      t.v = row(v, pair);
      t.v_stride = v.stride(2);
      t.output = output.mutable_data_ptr<float>() + at * dim;
      t.output_stride = dim;
      t.lse = result.lse.mutable_data_ptr<float>() + at;
      if (result.max.defined()) t.max = result.max.mutable_data_ptr<float>() + at;
      if (result.argmax.defined()) t.argmax = result.argmax.mutable_data_ptr<int64_t>() + at;
      t.scratch = scratch.mutable_data_ptr<float>();
      kernels.flash(t);
    }
  });
  result.output = output.to(q_any.scalar_type());
  return result;
}

}  // namespace surgery
