#pragma once
#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace surgery {

/// MPI for the life of the process (MPI_THREAD_MULTIPLE), or a single rank when not started by a launcher.
/// Made once in main. No destructor communicates: call `finish` on the way out, `abort` on an error.
class Session {
 public:
  Session(int& argc, char**& argv);
  ~Session();
  int rank() const;
  int size() const;
  int local_rank() const;
  std::string host() const;
  std::string library() const;  ///< MPI's own version text
  Communicator& world();
  /// A communicator over the same ranks with its own message space (the coordinator's thread, buckets).
  std::unique_ptr<Communicator> duplicate();
  void finish();
  [[noreturn]] void abort(int exit_code);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
