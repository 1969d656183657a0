#pragma once
#include <map>
#include <vector>

#include "base/tensor.h"
#include "recipe/block_file.h"
#include "recipe/config.h"
#include "recipe/trajectory_file.h"
#include "wan/transformer.h"

namespace surgery {

/// What distillation needs of one block: frozen q, k, v, the teacher's y, and the softmax part of every rate.
struct BlockSample {
  at::Tensor q, k, v, y;           ///< [samples, heads, tokens, head_dim]
  std::vector<SoftmaxPart> parts;  ///< per rate of the distillation; over all tokens for a linear rate
};

/// Distillation settings in the types of the attention floor.
struct DistillPlan {
  std::vector<Rate> rates;  ///< dearest first, no full rate
  FeatureMapConfig feature_map;
  Stabilizer stabilizer = Stabilizer::max;
  bool attention_loss = false, linear_branch = true, cosine = true;
  double learning_rate = 1e-3, weight_decay = 0.01, last_bias = -3;
  int64_t updates_per_group = 4, attention_rows = 64;
  int64_t total_updates = 1;  ///< over the whole distillation, for the schedule
};
DistillPlan distill_plan(const DistillSection& config, const TransformerConfig& teacher,
                         int64_t total_updates);

/// Replays the teacher at the given cached steps (both guidance branches) and captures the samples of
/// `blocks`, one full attention each by nested groups. Every block's own output goes on through the model in
/// the same form, so a block's samples do not depend on which other blocks are captured.
std::map<int64_t, BlockSample> capture(const Transformer& teacher, const Trajectory& trajectory,
                                       const std::vector<int64_t>& steps, const std::vector<int64_t>& blocks,
                                       const DistillPlan& plan, int64_t text_length, bool both_branches);

/// A block's state before its first update.
BlockState initial_block(int64_t block, const DistillPlan& plan, RandomKey key, at::Device device);

/// U updates of every rate on one group of samples (AdamW on phi alone).
void update_block(BlockState& state, const BlockSample& sample, const DistillPlan& plan, RandomKey key);

/// Held-out value loss of every rate on one sample, appended to the state.
void measure_block(BlockState& state, const BlockSample& sample, const DistillPlan& plan);

}  // namespace surgery
