#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "storage/tensor_store.h"

namespace surgery {

struct TrainingSettings {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01, epsilon = 1e-8;
  double gradient_clip = 1;  ///< largest norm over all gradients; 0 = no limit
  /// Matrices [out, in] of this name prefix follow Muon (Jordan et al. 2024) instead: the momentum's nearest
  /// orthogonal matrix, scaled to the size of an AdamW update (Liu et al. 2025), so that one rate serves
  /// both. It needs about half of AdamW's samples here. Empty = AdamW for all.
  std::string muon_prefix = "";
  double muon_momentum = 0.95;
  double average_decay = 0;  ///< of the running average of the parameters; 0 = none is kept
};

/// One process's parameters under AdamW (and Muon), with all that a continuation needs: moments, step,
/// running average.
class TrainedParameters {
 public:
  /// `values` become fp32 leaves that require grad (the map's tensors are replaced by them).
  TrainedParameters(TensorMap& values, TrainingSettings settings);

  int64_t step_count() const { return steps_; }
  const std::vector<at::Tensor>& values() const { return values_; }
  /// One update from the gradients (one per value, which may be changed; or those of a backward pass, which
  /// are then cleared); returns their norm before clipping. An update with a norm that is not finite is
  /// skipped (and counted as a step).
  double step(double learning_rate);
  double step(double learning_rate, std::vector<at::Tensor> gradients);
  /// Parameters averaged over the steps (the values themselves without an average), detached.
  TensorMap averaged() const;

  /// Everything, atomically, to one file; and back. Error{data} when the file is of other parameters.
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

 private:
  void update_by_muon(const std::vector<at::Tensor>& gradients, double learning_rate);

  TrainingSettings settings_;
  std::vector<std::string> names_;
  std::vector<bool> muon_;
  std::vector<at::Tensor> values_, first_, second_, average_;
  std::vector<at::Tensor> counts_;  // what the fused kernel wants: the step, once per tensor
  int64_t steps_ = 0;
};

/// The orthogonal matrices nearest to `matrices` [n, rows, columns], to a few per cent, by five steps of
/// Newton and Schulz's iteration with Muon's coefficients.
at::Tensor orthogonalized(const at::Tensor& matrices);

}  // namespace surgery
