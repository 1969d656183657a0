#pragma once
#include <exception>
#include <string>

#include "base/errors.h"

namespace surgery {

/// What an exception means to the user.
struct Failure {
  ExitCode code = ExitCode::internal;
  std::string words;
};

/// An Error's own code and words; of LibTorch's errors the words without the backtrace; for memory that is
/// used up what can be done (ExitCode::io: the machine's fault, not the program's).
Failure failure_of(const std::exception& error);

}  // namespace surgery
