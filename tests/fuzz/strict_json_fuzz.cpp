#include <nlohmann/json.hpp>

#include "fuzz.h"
#include "storage/strict_json.h"

/// Strict JSON; what passes is written and read again as the same value.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  return fuzz(data, size, [](std::span<const std::byte> bytes) {
    const nlohmann::json json =
        parse_strict_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "input");
    require(parse_strict_json(json.dump(), "input") == json);
  });
}
