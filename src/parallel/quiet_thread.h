#pragma once
#include <functional>
#include <thread>

namespace surgery {

/// A thread that takes no signals: SIGTERM and SIGUSR2 belong to the main thread, whatever waits elsewhere.
std::thread start_quiet_thread(std::function<void()> body);

}  // namespace surgery
