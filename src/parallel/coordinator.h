#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "parallel/session.h"
#include "parallel/watchdog.h"

namespace surgery {

/// A unit of idempotent work: an artifact that is missing.
struct WorkUnit {
  std::string name;   ///< what messages call it: "trajectory 42", "blocks 4-7"
  double weight = 1;  ///< expected effort; longest are handed out first (ties by position)
};

struct CoordinatorOptions {
  int attempts = 3;  ///< tries of one unit before the phase fails
  /// Of this rank; every rank has one or none has. While ranks wait for others, their watchdogs hear of any
  /// rank's progress, so that they expire only when nobody makes any.
  Watchdog* watchdog = nullptr;
};

/// Runs `make(index)` once for every unit, over all ranks of the session (collective; units must be equal on
/// every rank). Rank 0 hands units out from a thread of its own and works too; ranks ask, make, ask again. A
/// unit whose make throws is named and tried again, on another rank where there is one, at most `attempts`
/// times; then no more are handed out, those in work are completed, and every rank throws an AgreedError with
/// the last failure's exit code. `stop`, polled between units and while waiting, ends the phase early on
/// every rank in the same way. An Error{requeue} from `make` is such a stop, not a failure. Returns the units
/// that were not made, ascending and the same on every rank: none unless the phase was stopped.
std::vector<size_t> run_units(Session& session, const std::vector<WorkUnit>& units,
                              const std::function<void(size_t)>& make, const std::function<bool()>& stop = {},
                              const CoordinatorOptions& options = {});

}  // namespace surgery
