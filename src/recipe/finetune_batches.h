#pragma once
#include <set>
#include <span>
#include <vector>

#include "recipe/latent_set.h"
#include "recipe/sample_order.h"
#include "wan/flow.h"

namespace surgery {

/// Clips of one shape on their way to noise, fp32 on the host.
struct ClipBatch {
  at::Tensor input, target;  ///< [B, 16, T, H, W]
  at::Tensor timestep;       ///< [B]
  at::Tensor text;           ///< [B, L, text_dim]
  at::Tensor weight;         ///< [B], of each clip's loss
};

/// What the steps of finetuning are made of: a function of seed, set and step, whatever the number of ranks.
/// The clips of validation take no part in training. A damaged sample is named, and the next sound one of its
/// shard that is not withheld taken for it, up to data.damaged of them a rank.
class FinetuneBatches {
 public:
  /// Reads the text of dropped captions, and this rank's clips of validation. Error{usage} when validation
  /// leaves nothing to train on.
  FinetuneBatches(Recipe& recipe, const LatentSet& data);

  /// This rank's micro-batches of a step. One call at a time, on any thread.
  std::vector<ClipBatch> of_step(int64_t step);
  /// This rank's batches of validation, as many on every rank.
  int64_t validations() const { return std::ssize(held_); }
  /// A clip at a noise level and a noise that are its own. Weight 1; 0 where it only fills up the number.
  ClipBatch validation(int64_t index) const;

 private:
  /// A sample, and the key of all that is drawn for it.
  struct Place {
    RandomKey key;
    int64_t sample;
  };
  ClipBatch training(std::span<const Place> places);
  LatentSample read(int64_t index);
  ClipBatch noised(const LatentSample& sample, const at::Tensor& text, RandomKey key, double level) const;

  Recipe& recipe_;
  const FinetuneSection& f_;
  const LatentSet& data_;
  std::vector<int64_t> withheld_;  // samples
  SampleOrder order_;
  LevelDensity density_;
  LossWeighting weighting_;
  at::Tensor negative_;
  int64_t text_length_;
  std::set<int64_t> damaged_;       // samples that this rank has come upon
  std::vector<LatentSample> held_;  // this rank's of the withheld ones
};

}  // namespace surgery
