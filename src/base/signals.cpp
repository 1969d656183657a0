#include "base/signals.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/errors.h"

namespace surgery {
namespace {

std::atomic<bool> requested{false};
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch lock-free atomics only");

constexpr int kStopSignals[] = {SIGTERM, SIGUSR2};

void on_stop_signal(int number) {
  received.store(number, std::memory_order_relaxed);
  requested.store(true, std::memory_order_relaxed);
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;  // reads and writes in progress go on
  sigemptyset(&action.sa_mask);
  for (const int number : kStopSignals)
    if (::sigaction(number, &action, nullptr) != 0)
      throw Error(ExitCode::internal,
                  fmt::format("signal {} cannot be caught: {}", number, std::strerror(errno)));
}

void release_stop_signals() {
  for (const int number : kStopSignals) ::signal(number, SIG_DFL);
  if (const int number = stop_signal(); number != 0) ::raise(number);
}

bool stop_requested() {
  return requested.load(std::memory_order_relaxed);
}
int stop_signal() {
  return received.load(std::memory_order_relaxed);
}
void request_stop() {
  requested.store(true, std::memory_order_relaxed);
}

void clear_stop_request() {
  requested.store(false, std::memory_order_relaxed);
  received.store(0, std::memory_order_relaxed);
}

void block_stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : kStopSignals) sigaddset(&set, number);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

}  // namespace surgery
