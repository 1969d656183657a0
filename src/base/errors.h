#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace surgery {

/// Exit codes of the program (sysexits.h's numbers where one fits).
enum class ExitCode : int {
  done = 0,
  usage = 64,     ///< bad usage or configuration
  data = 65,      ///< bad input data
  internal = 70,  ///< a defect of the program
  io = 74,        ///< input or output failed
  requeue = 75,   ///< stopped cleanly with work left
};

/// Every failure of the program. Message form: what is wrong (why it matters): what to do.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ExitCode::usage, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
[[noreturn]] void fail_data(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ExitCode::data, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
[[noreturn]] void fail_io(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ExitCode::io, fmt::format(format, std::forward<Args>(args)...));
}

/// Reports a broken expectation of the program itself, with its place.
[[noreturn]] void fail_expectation(const char* expression, const char* file, int line);

/// Converts between integer types, or throws Error{data} when the value does not fit.
template <class To, class From>
To narrow(From value) {
  const To result = static_cast<To>(value);
  if (static_cast<From>(result) != value || ((result < To{}) != (value < From{})))
    fail_data("value {} does not fit its type", value);
  return result;
}

/// a / b, where b must divide a.
inline int64_t div_exact(int64_t a, int64_t b) {
  if (b == 0 || a % b != 0) fail_data("{} is not a multiple of {}", a, b);
  return a / b;
}

}  // namespace surgery

/// Input check, always on: throws Error{data} with the formatted message.
#define VALIDATE(condition, ...)                    \
  do {                                              \
    if (!(condition)) ::surgery::fail_data(__VA_ARGS__); \
  } while (false)

/// A programmer's expectation, always on: throws Error{internal} naming expression and place.
#define EXPECT(condition)                                                             \
  do {                                                                                \
    if (!(condition)) ::surgery::fail_expectation(#condition, __FILE__, __LINE__);    \
  } while (false)
