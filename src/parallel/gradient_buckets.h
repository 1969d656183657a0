#pragma once
#include <torch/torch.h>

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace surgery {

/// Data-parallel gradients: parameters grouped in buckets of flat fp32 memory, each averaged over the ranks
/// by a non-blocking all-reduce that starts, in one fixed order, as soon as backward has produced all its
/// gradients. Gradients are views of the buckets. Parameters that took no part in backward count as zero and
/// do not hang.
class GradientBuckets {
 public:
  GradientBuckets(Communicator& communicator, std::vector<std::vector<at::Tensor>> groups);
  ~GradientBuckets();
  void zero();                             ///< before backward
  void expect_last_micro_step(bool last);  ///< communicate only in the last of several accumulated backwards
  void finish();                           ///< after backward: launches what is left, waits for all
  double exposed_seconds() const;          ///< time finish() waited, summed since construction
  double communication_seconds() const;    ///< from launch to completion, summed over buckets

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
