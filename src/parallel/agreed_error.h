#pragma once
#include <string>

#include "base/errors.h"

namespace surgery {

/// An error that every rank throws, with the same text and code, at the same place of the program. The ranks
/// are still in step: rank 0 alone prints it, and all leave in good order (Session::report).
class AgreedError : public Error {
 public:
  using Error::Error;
};

}  // namespace surgery
