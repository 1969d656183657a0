#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "attention/feature_map.h"
#include "attention/rate.h"
#include "base/tensor.h"

namespace surgery {

/// Both feature maps of one block at one rate, in one flat tensor (phi_q's parameters, then phi_k's), with
/// AdamW's state.
struct RateState {
  Rate rate = Rate::full();
  at::Tensor parameters, exp_avg, exp_avg_sq;  ///< [n], fp32
  int64_t step = 0;
  std::vector<double> losses;      ///< training loss of every update
  std::vector<double> held_out;    ///< [held-out prompts * timesteps], once distilled
  double smallest_normalizer = 0;  ///< n_i over the held-out samples
};

/// A block's distillation: state of every rate and how far it got (distill/block-07.h5).
struct BlockState {
  int64_t block = 0;
  std::string fingerprint;
  int64_t cursor = 0;                 ///< groups of timesteps eaten, over all trajectories and epochs
  bool done = false;                  ///< held-out errors are in
  std::vector<double> teacher_scale;  ///< mean |y| of every held-out sample: what an error is relative to
  std::vector<RateState> rates;
  /// Of a rate that was distilled; Error{data}.
  const RateState& at(Rate rate) const;
};

int64_t feature_map_flat_size(const FeatureMapConfig& config);
/// Views of the flat tensor as the two feature maps (differentiable).
std::pair<FeatureMap, FeatureMap> unflatten(const FeatureMapConfig& config, const at::Tensor& flat);
at::Tensor flatten(const FeatureMap& phi_q, const FeatureMap& phi_k);

void write_block(const std::filesystem::path& path, const BlockState& state);
BlockState read_block(const std::filesystem::path& path);
/// Of a block's file, from its header alone; Error{data}, Error{io}.
bool block_is_done(const std::filesystem::path& path);

}  // namespace surgery
