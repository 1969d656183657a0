#pragma once
#include <memory>
#include <vector>

#include "base/tensor.h"
#include "parallel/communicator.h"

namespace surgery {

/// Data-parallel gradients: parameters grouped in buckets of flat fp32 memory, each averaged over the ranks
/// by a non-blocking all-reduce that starts, in one fixed order (last group first, as backward makes them),
/// as soon as backward has produced all its gradients. A thread drives the transfers beside backward. The
/// gradients of fp32 parameters are views of the buckets; those of bf16 parameters are added to the bucket in
/// fp32 and then dropped, so the optimizer reads `gradients()`. Parameters that took no part in backward
/// count as zero.
///
///     buckets.zero();
///     for (m...) { buckets.expect_last_micro_step(m == last); loss(m).backward(); }
///     buckets.finish();  // gradients() now hold the mean over ranks of the sum over micro-steps
///
/// Results are the same bits for the same number of ranks.
class GradientBuckets {
 public:
  /// Collective (the ranks' parameters must be alike; `communicator` belongs to the buckets alone, see
  /// Session::duplicate, and outlives them). Groups are in the order of the forward pass, one bucket each.
  /// Throws Error{internal} when a parameter needs no gradient, appears twice, or is neither fp32 nor bf16.
  GradientBuckets(Communicator& communicator, std::vector<std::vector<at::Tensor>> groups);
  ~GradientBuckets();
  void zero();                             ///< before backward
  void expect_last_micro_step(bool last);  ///< communicate only in the last of several accumulated backwards
  void finish();                           ///< after backward: launches what is left, waits for all
  /// fp32, shaped like the parameters, in the order of the groups; views of the buckets.
  const std::vector<at::Tensor>& gradients() const;
  /// The buckets themselves, [n] fp32, padded with zeros to a multiple of 64 times the ranks (so that each
  /// can be cut in equal pieces when optimizer state is sharded).
  const std::vector<at::Tensor>& flat() const;
  double exposed_seconds() const;        ///< time finish() waited, summed since construction
  double communication_seconds() const;  ///< from launch to completion, summed over buckets

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
