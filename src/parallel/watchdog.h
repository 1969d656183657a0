#pragma once
#include <functional>
#include <memory>
#include <string>

#include "parallel/session.h"

namespace surgery {

/// Aborts the job when a phase makes no progress within its limit: a rank whose peer is gone would otherwise
/// wait until the allocation ends. Each rank prints what it was doing; a grace time lets the others print
/// theirs.
class Watchdog {
 public:
  /// What happens after the print; a test replaces it.
  using Expired = std::function<void(const std::string& report)>;

  /// Aborts with ExitCode::internal, `grace` seconds after this rank's report.
  explicit Watchdog(Session& session, double grace = 2);
  /// Calls `expired` once for each expiry instead.
  Watchdog(std::string where, Expired expired);
  ~Watchdog();

  /// From now on this rank does `what` and shows progress at least every `limit` seconds (0 = no limit).
  void enter(const std::string& what, double limit);
  /// Progress of this rank: the limit starts anew, and the listener is told. `detail` ("step 17") goes into
  /// the report.
  void beat(const std::string& detail = {});
  /// Progress of another rank that this one waits for: the limit starts anew.
  void hear();
  /// Who passes this rank's progress on to those that wait for it; none = nobody. Called by `beat`, on its
  /// thread.
  void listen(std::function<void()> listener);
  /// Nothing is expected of this rank.
  void leave();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
