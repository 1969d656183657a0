#include "base/errors.h"

namespace surgery {

void fail_expectation(const char* expression, const char* file, int line) {
  throw Error(
      ExitCode::internal,
      fmt::format("{}:{}: expected {} (a defect of this program): please report it", file, line, expression));
}

}  // namespace surgery
