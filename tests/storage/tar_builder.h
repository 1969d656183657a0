#pragma once
#include <cstdint>
#include <string>

namespace surgery {

/// One member of a tar archive, and what to write differently about it.
struct TarPart {
  std::string name, bytes;
  char type = '0';
  std::string magic = std::string("ustar\00000", 8);
  std::string prefix = {};
  std::string size = {};  // the size field; empty: the true size in octal
};

inline std::string tar_octal(uint64_t value, int digits) {
  std::string text(static_cast<size_t>(digits), '0');
  for (size_t i = text.size(); i-- > 0; value /= 8) text[i] = static_cast<char>('0' + value % 8);
  return text;
}

/// A header block's checksum, written into it.
inline void seal_tar_header(std::string& archive, size_t header) {
  archive.replace(header + 148, 8, 8, ' ');
  uint64_t sum = 0;
  for (size_t i = 0; i < 512; ++i) sum += static_cast<uint8_t>(archive[header + i]);
  archive.replace(header + 148, 8, tar_octal(sum, 6) + std::string("\0 ", 2));
}

inline std::string tar_member(const TarPart& part) {
  std::string block(512, '\0');
  block.replace(0, part.name.size(), part.name);
  block.replace(100, 8, std::string("0000644\0", 8));
  const std::string size = part.size.empty() ? tar_octal(part.bytes.size(), 11) : part.size;
  block.replace(124, size.size(), size);
  block.replace(136, 11, tar_octal(0, 11));
  block[156] = part.type;
  block.replace(257, 8, part.magic);
  block.replace(345, part.prefix.size(), part.prefix);
  seal_tar_header(block, 0);
  return block + part.bytes + std::string((512 - part.bytes.size() % 512) % 512, '\0');
}

inline std::string tar_end() {
  return std::string(1024, '\0');
}

/// The whole archive, as Python's tarfile lays it out but for the padding to 10 KiB.
template <class Parts>
std::string build_tar(const Parts& parts) {
  std::string archive;
  for (const TarPart& part : parts) archive += tar_member(part);
  return archive + tar_end();
}

/// A record of a pax header, its length counted.
inline std::string pax_record(const std::string& key, const std::string& value) {
  const std::string rest = " " + key + "=" + value + "\n";
  size_t length = rest.size();
  while (length != rest.size() + std::to_string(length).size())
    length = rest.size() + std::to_string(length).size();
  return std::to_string(length) + rest;
}

}  // namespace surgery
