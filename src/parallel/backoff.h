#pragma once
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace surgery {

/// How a rank waits for a message: first by yielding (a reply within microseconds is taken at once), then by
/// sleeping longer and longer, so that an idle rank leaves its core to whoever computes. Two ranks on two
/// cores need this.
class Backoff {
 public:
  using Duration = std::chrono::duration<double>;

  /// `eager` seconds of yielding, then sleeps growing from `shortest` to `longest` seconds.
  Backoff(double eager, double shortest, double longest)
      : eager_(eager), shortest_(shortest), longest_(longest), sleep_(shortest) {}

  /// Waiting for a collective of `bytes`: eager about as long as the bytes take, then naps of 50 to 200 us.
  static Backoff for_transfer(int64_t bytes) {
    return {2e-4 + static_cast<double>(bytes) * 1e-9, 5e-5, 1e-3};
  }
  /// Waiting for another rank's work, which takes seconds to hours: naps of 0.2 to 2 ms.
  static Backoff for_work() { return {0, 2e-4, 2e-3}; }
  /// Driving transfers beside a computation: never yields in a loop, which would take half of a shared core.
  static Backoff beside_computation() { return {0, 5e-5, 2e-4}; }

  void pause() {
    if (started_ == Clock::time_point{}) started_ = Clock::now();
    if (Duration(Clock::now() - started_).count() < eager_) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(Duration(sleep_));
    sleep_ = std::min(sleep_ * 1.5, longest_);
  }
  /// Something arrived: start eager again.
  void reset() {
    started_ = {};
    sleep_ = shortest_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  double eager_, shortest_, longest_, sleep_;
  Clock::time_point started_{};
};

/// Asks until `test` says yes. Several times between pauses: a large message advances by a fragment with each
/// question.
template <class Test>
void wait_until(Test&& test, Backoff backoff) {
  for (;;) {
    for (int i = 0; i < 8; ++i)
      if (test()) return;
    backoff.pause();
  }
}

}  // namespace surgery
