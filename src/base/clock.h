#pragma once
#include <chrono>

namespace surgery {

/// Seconds of a clock that never goes back: for durations.
inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace surgery
