#pragma once
#include <memory>
#include <vector>

#include "base/tensor.h"
#include "parallel/bucket_layout.h"
#include "parallel/collective_queue.h"

namespace surgery {

/// The parameters of training as views of flat memory, a bucket of BucketLayout each, of which every rank
/// updates its own piece. With Sharding::parameters a bucket's memory is there only while its group is
/// needed; then autograd may have kept views of it, which are valid whenever the group is there again.
class FlatParameters {
 public:
  /// `parameters[b]` are those of layout.buckets[b], leaves of one type; they become views of flat memory
  /// that holds `values`, a bucket after the other. `communicator` belongs to this object alone, and outlives
  /// it.
  FlatParameters(Communicator& communicator, const BucketLayout& layout,
                 const std::vector<std::vector<at::Tensor>>& parameters, const ReadParameter& values,
                 Sharding sharding);
  ~FlatParameters();

  /// What this rank updates, by bucket: [size / ranks] (without sharding the whole bucket), in the
  /// parameters' type.
  const std::vector<at::Tensor>& pieces() const;

  /// Collective, after an update: the pieces become every rank's. Until a group is needed they travel beside
  /// whatever comes next. The groups are called in the order of `groups`, which has each once.
  void publish(const std::vector<size_t>& groups);
  /// Waits until the pieces have arrived everywhere: before they change again.
  void settle();
  /// Collective: the group's parameters are whole and up to date when it returns.
  void need(size_t group);
  /// Collective: begins what `need` would wait for.
  void prefetch(size_t group);
  /// The group's memory may go, until it is needed again (parameters; else nothing happens).
  void release(size_t group);

  double exposed_seconds() const;        ///< waiting for collectives, summed
  double communication_seconds() const;  ///< summed over collectives

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
