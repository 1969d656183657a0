#pragma once
#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace surgery {

/// Sets the rank that log lines carry; ranks above 0 print warnings and errors only, unless verbose.
void set_log_rank(int rank, int world, bool verbose = false);

/// The rank set above.
int log_rank();

void log_line(std::string_view level, std::string_view message);

/// One line on standard output from rank 0 (every rank when verbose).
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line("info", fmt::format(format, std::forward<Args>(args)...));
}
/// One line on standard error from any rank, prefixed with the rank.
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line("warning", fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace surgery
