#pragma once
#include <torch/torch.h>

#include <filesystem>
#include <vector>

#include "storage/tensor_store.h"

namespace surgery {

struct AdamWSettings {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01, epsilon = 1e-8;
  double gradient_clip = 1;  ///< largest norm over all gradients; 0 = no limit
  double average_decay = 0;  ///< of the running average of the parameters; 0 = none is kept
};

/// One process's parameters under AdamW, with all that a continuation needs: moments, step, running average.
class TrainedParameters {
 public:
  /// `values` become fp32 leaves that require grad (the map's tensors are replaced by them).
  TrainedParameters(TensorMap& values, AdamWSettings settings);

  int64_t step_count() const { return steps_; }
  /// One update from the gradients, which are then cleared; returns their norm before clipping. An update
  /// with a norm that is not finite is skipped (and counted as a step).
  double step(double learning_rate);
  /// Parameters averaged over the steps (the values themselves without an average), detached.
  TensorMap averaged() const;

  /// Everything, atomically, to one file; and back. Error{data} when the file is of other parameters.
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

 private:
  AdamWSettings settings_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> values_, first_, second_, average_;
  std::vector<at::Tensor> counts_;  // what the fused kernel wants: the step, once per tensor
  int64_t steps_ = 0;
};

/// Linear warm-up over `warmup` steps, then cosine down to `floor` of `peak` at `total`.
double cosine_rate(int64_t step, int64_t total, int64_t warmup, double peak, double floor = 0.02);

}  // namespace surgery
