#include "fuzz.h"
#include "storage/safetensors.h"

/// The header of a safetensors file; what passes lies within the file and has its shape's bytes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  return fuzz(data, size, [](std::span<const std::byte> file) {
    const SafetensorsHeader header = read_safetensors_header(file, "input");
    for (const auto& [name, entry] : header.entries) {
      require(entry.end - entry.begin == shape_bytes(entry.shape, entry.dtype, name));
      touch(file.subspan(header.data_begin + entry.begin, entry.end - entry.begin));
    }
  });
}
