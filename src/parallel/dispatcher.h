#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.h"
#include "parallel/coordinator.h"

namespace surgery {

/// Who makes which unit: the coordinator's decisions, without messages and threads.
///
/// A verdict (finished, stopped, failed) is given only when no unit is in work any more: what others are
/// making when a unit fails for good, or when a signal arrives, is completed and kept. Once given it never
/// changes.
class Dispatcher {
 public:
  struct Answer {
    enum class Kind { make, finished, stopped, failed } kind = Kind::make;
    size_t unit = 0;                 ///< of `make`
    ExitCode code = ExitCode::done;  ///< of `failed`
    std::string message;             ///< of `failed`
    std::vector<size_t> left = {};   ///< of `stopped`: the units that were not made, ascending
  };

  Dispatcher(const std::vector<WorkUnit>& units, int ranks, int attempts);

  /// What `rank` does next; nothing when it has to wait for what others are doing.
  std::optional<Answer> next(int rank);
  void made(size_t unit);
  /// `what` becomes part of messages; `where` names the rank. Returns true when the unit will be tried again.
  bool failed(int rank, const std::string& where, size_t unit, ExitCode code, const std::string& what);
  /// The unit was given up because of a stop; it does not count as a failure.
  void given_up(size_t unit);
  void stop() { stopping_ = true; }
  /// The phase cannot go on at all.
  void fail(ExitCode code, const std::string& message);
  int tries(size_t unit) const;

 private:
  bool may_take(int rank, size_t unit) const;

  std::vector<WorkUnit> units_;
  int attempts_;
  std::vector<size_t> waiting_;          // in the order they are handed out
  std::vector<size_t> order_;            // position of a unit in that order
  std::vector<std::vector<int>> tries_;  // [unit][rank]: failures so far
  std::vector<bool> present_;            // ranks that have asked: nobody leaves before all have come
  size_t in_work_ = 0;
  bool stopping_ = false;
  std::optional<Answer> failure_, verdict_;
};

}  // namespace surgery
