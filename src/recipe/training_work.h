#pragma once
#include "attention/cost_model.h"

namespace surgery {

/// What training on some clips takes, in FLOPs (2 a multiply-add; attention/cost_model.h says what counts).
/// Forward and backward are three forwards of the student; blocks that are computed again are not counted
/// again.
struct TrainingWork {
  double tokens = 0;     ///< of video
  double matrices = 0;   ///< all but the next two
  double attention = 0;  ///< over video tokens: the softmax, the feature maps and their sums
  double teacher = 0;    ///< the frozen teacher's forwards
  double student() const { return matrices + attention; }
};

/// `rates` by block.
TrainingWork training_work(const CostGeometry& geometry, const FeatureMapConfig& phi,
                           const std::vector<Rate>& rates, int64_t clips, bool with_teacher);

}  // namespace surgery
