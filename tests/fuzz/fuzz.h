#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/errors.h"

namespace surgery {

/// Runs a reader on one input. It may succeed or refuse the data; any other error, like any other exception,
/// is a defect and ends the fuzzer.
template <class Reader>
int fuzz(const uint8_t* data, size_t size, Reader reader) {
  try {
    reader(std::as_bytes(std::span(data, size)));
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) std::abort();
  }
  return 0;
}

/// Reads every byte, so that AddressSanitizer sees a range that leaves the input.
inline void touch(std::span<const std::byte> bytes) {
  uint8_t sum = 0;
  for (const std::byte byte : bytes) sum = static_cast<uint8_t>(sum + std::to_integer<uint8_t>(byte));
  volatile uint8_t kept = sum;
  (void)kept;
}

inline void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace surgery
