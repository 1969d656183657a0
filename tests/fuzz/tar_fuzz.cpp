#include <cstdio>
#include <cstring>
#include <string_view>

#include "fuzz.h"
#include "storage/tar_archive.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

/// Nearly every change of a header spoils its checksum, and the reader would look no further. So most inputs
/// get whole blocks, and every block that could be a header its checksum.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  constexpr size_t block = 512;
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 8 == 0) return size;
  const size_t whole = (size + block - 1) / block * block;
  if (whole <= max_size) {
    std::memset(data + size, 0, whole - size);
    size = whole;
  }
  for (size_t begin = 0; begin + block <= size; begin += block) {
    uint8_t* header = data + begin;
    if (std::memcmp(header + 257, "ustar", 5) != 0) continue;
    std::memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < block; ++i) sum += header[i];
    std::snprintf(reinterpret_cast<char*>(header) + 148, 7, "%06o", sum);
  }
  return size;
}

/// A tar archive, damaged or not; every entry lies within it and its name within the folder.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  return fuzz(data, size, [](std::span<const std::byte> file) {
    const std::byte* behind = file.data();
    for (const TarEntry& entry : read_tar(file, "input").entries) {
      require(entry.bytes.data() >= behind &&
              entry.bytes.data() + entry.bytes.size() <= file.data() + file.size());
      behind = entry.bytes.data() + entry.bytes.size();
      require(!entry.name.empty() && entry.name[0] != '/' && entry.name.size() <= 1024);
      require(("/" + entry.name + "/").find("/../") == std::string::npos);
      require(entry.name.find('\0') == std::string::npos);
      touch(entry.bytes);
    }
  });
}
