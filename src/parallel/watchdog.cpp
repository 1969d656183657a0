#include "parallel/watchdog.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/errors.h"
#include "base/log.h"
#include "parallel/quiet_thread.h"

namespace surgery {
namespace {
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
}  // namespace

struct Watchdog::State {
  std::string where;
  Expired expired;
  std::mutex mutex;
  std::condition_variable changed;
  std::string what, detail;
  std::function<void()> listener;
  double limit = 0;
  Clock::time_point entered, last_beat;
  bool quit = false;
  std::thread thread;

  void watch() {
    std::unique_lock lock(mutex);
    while (!quit) {
      if (limit <= 0) {
        changed.wait(lock);
        continue;
      }
      const auto deadline =
          last_beat + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(limit));
      if (Clock::now() < deadline) {
        changed.wait_until(lock, deadline);
        continue;
      }
      const std::string report = fmt::format(
          "{}: no progress for {:.0f} s in \"{}\"{} (limit {:.0f} s; {:.0f} s in this phase): "
          "another rank or the file system is probably gone",
          where, seconds_since(last_beat), what, detail.empty() ? "" : ", last at " + detail, limit,
          seconds_since(entered));
      limit = 0;
      lock.unlock();
      expired(report);
      lock.lock();
    }
  }
};

Watchdog::Watchdog(std::string where, Expired expired) : state_(std::make_unique<State>()) {
  state_->where = std::move(where);
  state_->expired = std::move(expired);
  state_->thread = start_quiet_thread([state = state_.get()] { state->watch(); });
}

Watchdog::Watchdog(Session& session, double grace)
    : Watchdog(fmt::format("rank {}, {}", session.rank(), session.host()),
               [&session, grace](const std::string& report) {
                 log_warning("{}", report);
                 std::this_thread::sleep_for(std::chrono::duration<double>(grace));
                 session.abort(static_cast<int>(ExitCode::internal));
               }) {}

Watchdog::~Watchdog() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->quit = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

void Watchdog::enter(const std::string& what, double limit) {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->what = what;
    state_->detail.clear();
    state_->limit = limit;
    state_->entered = state_->last_beat = Clock::now();
  }
  state_->changed.notify_all();
}

void Watchdog::beat(const std::string& detail) {
  std::function<void()> listener;
  {
    const std::scoped_lock lock(state_->mutex);
    state_->detail = detail;
    state_->last_beat = Clock::now();
    listener = state_->listener;
  }
  if (listener) listener();
}

void Watchdog::hear() {
  const std::scoped_lock lock(state_->mutex);
  state_->last_beat = Clock::now();
}

void Watchdog::listen(std::function<void()> listener) {
  const std::scoped_lock lock(state_->mutex);
  state_->listener = std::move(listener);
}

void Watchdog::leave() {
  enter("", 0);
}

}  // namespace surgery
