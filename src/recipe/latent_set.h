#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/latent_shard.h"
#include "recipe/recipe.h"
#include "recipe/sample_order.h"

namespace surgery {

/// The finetuning set: the latent shards of the run and of the folders that data.shards names. Their clips
/// have the shapes of the configuration, one shape a shard.
class LatentSet {
 public:
  /// Collective. Error{io} when there are no shards or encoding them has not come to its end, Error{usage}
  /// when they are another choice of clips, Error{data} when they do not fit the teacher.
  static LatentSet open(Recipe& recipe);
  int64_t size() const;
  LatentSample sample(int64_t index) const;
  /// Of everything that decides what a step is made of: shards, sets, weights.
  const std::string& fingerprint() const;
  /// What SampleOrder asks for. Shapes are numbered by frames, height, width, those alone that occur.
  const std::vector<SampleRun>& runs() const;
  const std::vector<double>& weights() const;
  std::string text() const;  ///< "1200 samples: 800 of 81x480x832, 400 of 41x480x832"

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// The space of the teacher's latents and text rows.
LatentSpace latent_space(Recipe& recipe);

}  // namespace surgery
