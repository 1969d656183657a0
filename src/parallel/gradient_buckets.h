#pragma once
#include <memory>
#include <vector>

#include "base/tensor.h"
#include "parallel/bucket_layout.h"
#include "parallel/collective_queue.h"

namespace surgery {

/// Data-parallel gradients in flat fp32 buckets, each averaged over the ranks by a collective beside backward
/// that starts, in one fixed order, as soon as backward has produced all its gradients. Parameters that took
/// no part in backward count as zero.
///
///     buckets.zero();
///     for (m...) { buckets.begin_micro_step(m == last); loss(m).backward(); }
///     buckets.finish();  // pieces() now hold the mean over ranks of the sum over micro-steps
///
/// By sharding:
///   none        all-reduce; the piece is the whole bucket, on every rank
///   optimizer   reduce-scatter into this rank's piece of the bucket, which stays whole memory
///   parameters  a bucket's memory is there only from its first gradient until it is scattered, so every
///               micro-step communicates, and only the piece is kept
/// In the first two cases gradients of fp32 parameters, once they are there, are views of the buckets and
/// only the last micro-step communicates; other gradients are added to the bucket in fp32 and dropped.
/// Results are the same bits for the same number of ranks.
class GradientBuckets {
 public:
  /// `parameters[b]` are those of layout.buckets[b], in its order; `order` has each bucket once, as backward
  /// completes them: one that is late holds up those behind it. Collective (the ranks' parameters must be
  /// alike; `communicator` belongs to the buckets alone, see Session::duplicate, and outlives them). Throws
  /// Error{internal} when a parameter needs no gradient or appears twice.
  GradientBuckets(Communicator& communicator, const BucketLayout& layout,
                  std::vector<std::vector<at::Tensor>> parameters, std::vector<size_t> order,
                  Sharding sharding);
  ~GradientBuckets();
  /// Before the first backward of a step: from now until `finish` pieces() are nobody's.
  void zero();
  void begin_micro_step(bool last);  ///< before every backward
  void finish();                     ///< after the last: launches what is left, waits for all
  size_t launched() const;           ///< buckets of this micro-step whose collectives have begun
  /// [layout.buckets[b].size / ranks] fp32 (without sharding the whole bucket) by bucket.
  const std::vector<at::Tensor>& pieces() const;
  double exposed_seconds() const;        ///< waiting for collectives, summed since construction
  double communication_seconds() const;  ///< from launch to completion, summed over collectives

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
