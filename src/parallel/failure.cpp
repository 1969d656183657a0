#include "parallel/failure.h"

#include <c10/util/Exception.h>

#include <new>

namespace surgery {

Failure failure_of(const std::exception& error) {
  if (const auto* known = dynamic_cast<const Error*>(&error)) return {known->code(), known->what()};
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  std::string words = of_torch ? of_torch->what_without_backtrace() : error.what();
  const bool memory = dynamic_cast<const std::bad_alloc*>(&error) ||
                      dynamic_cast<const c10::OutOfMemoryError*>(&error) ||
                      words.find("can't allocate memory") != std::string::npos;
  if (!memory) return {ExitCode::internal, words};
  return {ExitCode::io, words +
                            " (this rank's memory is used up): 'surgery plan' tells what each stage takes; "
                            "model.stream=yes, fewer ranks a machine or smaller batches take less"};
}

}  // namespace surgery
