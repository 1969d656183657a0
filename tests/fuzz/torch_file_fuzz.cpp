#include "fuzz.h"
#include "storage/torch_file.h"

/// A torch.save archive of a state dict or of one tensor, zip and pickle; every element of what passes lies
/// within the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  const auto check = [](std::span<const std::byte> file, const TorchEntry& entry) {
    require(shape_bytes(entry.shape, entry.dtype, "input") <= file.size());
    require(entry.shape.size() == entry.strides.size());
    touch(file.subspan(entry.begin, entry.end - entry.begin));
  };
  fuzz(data, size, [&](std::span<const std::byte> file) { check(file, read_torch_tensor(file, "input")); });
  return fuzz(data, size, [&](std::span<const std::byte> file) {
    for (const auto& [name, entry] : read_torch_content(file, "input").entries) check(file, entry);
  });
}
