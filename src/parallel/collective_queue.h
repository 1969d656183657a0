#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "base/tensor.h"
#include "parallel/communicator.h"

namespace surgery {

/// Non-blocking collectives of one communicator in flight together. They begin in the order of the calls,
/// which must be the same on every rank; a thread drives them beside the computation and ends them in that
/// order. An error of one of them comes out of the next wait.
class CollectiveQueue {
 public:
  using Start = std::function<std::unique_ptr<Communicator::Pending>(Communicator&)>;
  using Ticket = int64_t;  ///< 1 for the first collective, then 2, ...; nothing has to be waited for 0

  /// The communicator is the queue's alone (Session::duplicate), and outlives it.
  explicit CollectiveQueue(Communicator& communicator);
  /// What is still in flight (an error on the way) keeps its memory for ever: MPI may write into it.
  ~CollectiveQueue();
  CollectiveQueue(const CollectiveQueue&) = delete;
  CollectiveQueue& operator=(const CollectiveQueue&) = delete;

  /// `tensors` are what the collective reads and writes. `done` is called once it has ended, on the queue's
  /// thread (on one rank: at once, on the caller's).
  Ticket start(const Start& start, std::vector<at::Tensor> tensors, std::function<void()> done = {});
  void wait(Ticket ticket);
  void wait_all();

  double waited_seconds() const;  ///< in wait and wait_all, summed
  double flight_seconds() const;  ///< from begin to end, summed over collectives

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
