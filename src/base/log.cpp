#include "base/log.h"

#include <cstdio>
#include <mutex>

namespace surgery {
namespace {
struct LogState {
  int rank = 0, world = 1;
  bool verbose = false;
  std::mutex mutex;
};
LogState& state() {
  static LogState instance;
  return instance;
}
}  // namespace

void set_log_rank(int rank, int world, bool verbose) {
  state().rank = rank;
  state().world = world;
  state().verbose = verbose;
}

int log_rank() { return state().rank; }

void log_line(std::string_view level, std::string_view message) {
  LogState& log = state();
  const bool is_info = level == "info";
  if (is_info && log.rank != 0 && !log.verbose) return;
  std::FILE* out = is_info ? stdout : stderr;
  const std::scoped_lock lock(log.mutex);
  if (log.world > 1 && (log.rank != 0 || log.verbose)) fmt::print(out, "[rank {}] ", log.rank);
  if (!is_info) fmt::print(out, "{}: ", level);
  fmt::print(out, "{}\n", message);
  std::fflush(out);
}

}  // namespace surgery
