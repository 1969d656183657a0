#pragma once
#include <exception>
#include <memory>
#include <string>

#include "parallel/channel.h"
#include "parallel/communicator.h"

namespace surgery {

/// MPI for the life of the process (MPI_THREAD_MULTIPLE), or a single rank when not started by a launcher.
/// Made once in main. No destructor communicates: call `finish` on the way out, `abort` on an error.
/// From its construction on, std::terminate prints `rank, host: what` and aborts all ranks.
class Session {
 public:
  /// Throws Error{usage} when this process is alone where an allocation promises several ranks.
  Session(int& argc, char**& argv);
  ~Session();
  int rank() const;
  int size() const;
  int local_rank() const;  ///< rank among those of this host, for choosing a device
  int local_size() const;
  std::string host() const;
  std::string library() const;  ///< MPI's own version text
  Communicator& world();
  /// A communicator over the same ranks with its own message space (buckets, a thread). Collective.
  std::unique_ptr<Communicator> duplicate();
  /// Short texts between ranks; only where size() > 1. A tag of its own for each use: next_channel_tag().
  Channel& channel();
  int next_channel_tag();  ///< equal on all ranks when called equally often

  /// Waits for the others and ends MPI. Every rank calls it.
  void finish();
  /// Ends all ranks now.
  [[noreturn]] void abort(int exit_code);
  /// main's catch: prints `rank, host: what` and gives the exit code. After an AgreedError (rank 0 prints)
  /// all ranks finish; after anything else this rank aborts all, and the call does not return.
  int report(const std::exception& error);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
