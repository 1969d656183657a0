#pragma once
#include <memory>
#include <string>

#include "data/latent_shard.h"
#include "recipe/recipe.h"

namespace surgery {

/// The finetuning set: all latent shards of the run (or of data.shards), one shape.
class LatentSet {
 public:
  /// Collective. Error{io} when there are no shards or encoding them has not come to its end, Error{usage}
  /// when they are another choice of clips, Error{data} when they do not fit the teacher.
  static LatentSet open(Recipe& recipe);
  int64_t size() const;
  LatentSample sample(int64_t index) const;
  const std::string& fingerprint() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace surgery
