#pragma once
#include <string>
#include <vector>

#include "base/random.h"
#include "base/tensor.h"

namespace surgery {

enum class HiddenActivation { gelu };  ///< erf form
enum class OutputActivation { softplus, relu, elu1, exp, square, none };
std::string to_string(OutputActivation activation);
OutputActivation parse_output_activation(std::string_view name);  ///< Error{usage} with the list of names

/// Shape of phi (paper, section 3; design: an MLP per head, grouped 1x1 convolution).
struct FeatureMapConfig {
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t degree = 2;  ///< P: slices raised to the powers 1..P; the output has P * head_dim features
  int64_t layers = 2;  ///< L
  OutputActivation output_activation = OutputActivation::softplus;
  int64_t features() const { return degree * head_dim; }
  void check() const;  ///< Error{data} unless every count is at least 1
};

/// phi: [batch, heads, tokens, head_dim] -> [batch, heads, tokens, P * head_dim].
/// weight[l] [heads, out, in], bias[l] [heads, out]; in = D for l = 0, else P*D; out = P*D.
struct FeatureMap {
  FeatureMapConfig config;
  std::vector<at::Tensor> weight, bias;

  /// Weights normal with standard deviation 1/sqrt(fan-in); the last bias starts at `last_bias` so that
  /// the linear term of a key starts small beside exp(s - c) of the nearest one. (Over the thousands of keys
  /// of T_L it adds up: the softmax part dominates at the start only for short sequences or a lower bias.)
  /// The activations that are not small at -3 (relu, square, none) start from a last layer of 0.02 times that
  /// deviation, around softplus(last_bias).
  static FeatureMap initial(const FeatureMapConfig& config, RandomKey key, double last_bias = -3.0);
  at::Tensor operator()(const at::Tensor& x) const;
  std::vector<at::Tensor> parameters() const;  ///< weight 0, bias 0, weight 1, ...
};

}  // namespace surgery
