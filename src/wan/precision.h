#pragma once
#include <string>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// Where a 16-bit transformer rounds; the two programs that this model is run with differ (wan21.md 1.7).
enum class Rounding {
  /// 16-bit weights but for the time embedder, tables and LayerNorms; the residual stream is rounded after
  /// every sum, the time projection and the head are 16-bit products.
  diffusers,
  /// As autocast over fp32 weights rounds: the inputs of the blocks' products and of the attention are
  /// 16-bit; residual stream, modulation, time embedding, qk-norm's weights and head stay fp32.
  wan
};

/// In what a transformer computes. Its parameters' dtype alone is diffusers' rounding.
struct Precision {
  Precision(at::ScalarType of_products, Rounding where = Rounding::diffusers)
      : dtype(of_products), rounding(where) {}
  at::ScalarType dtype;
  Rounding rounding;

  /// What a parameter of diffusers' `name` is held as: at least fp32 where the rounding keeps it so.
  at::ScalarType of_parameter(const std::string& name) const;
};

/// Parameters that stay fp32 in diffusers' 16-bit model (its `_keep_in_fp32_modules`): time embedder, tables,
/// LayerNorms.
bool kept_in_fp32(const std::string& parameter);

/// fp32, bf16-diffusers, bf16-wan.
std::vector<std::string> precision_names();
/// One of those names, else Error{usage}.
Precision parse_precision(const std::string& name);

}  // namespace surgery
