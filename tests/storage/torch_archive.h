#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace surgery {

/// A number as `width` little-endian bytes.
inline std::string little(uint64_t value, size_t width) {
  std::string bytes;
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>(i < 8 ? value >> (8 * i) : 0);
  return bytes;
}

/// One entry of a zip archive, and what to write wrongly about it.
struct ZipPart {
  std::string name, bytes;
  uint16_t flags = 1 << 3 | 1 << 11;  // torch.save's: sizes behind the content, UTF-8
  uint16_t method = 0;
  std::string local_name = {};  // in the local header; empty: the same
  int64_t local_size = -1;      // in the local header; -1: 0, as the flags say
  int64_t size = -1;            // in both headers of the directory; -1: the true one
  int64_t begin = -1;           // of the local header as the directory tells it; -1: the true one
  size_t shift = 0;             // bytes by which the content misses the 64-byte grid
  bool wide = false;            // sizes and place in a zip64 field of the directory
};

struct ZipArchive {
  std::string bytes;
  std::vector<size_t> headers, contents, central;  // positions of each entry's parts
  size_t directory = 0, end = 0;                   // position of the directory and of the last end record
};

/// Entries as torch.save lays them out (contents aligned to 64 bytes), with zip64 end records if wanted.
inline ZipArchive build_zip(const std::vector<ZipPart>& parts, bool zip64 = true, int64_t count = -1) {
  ZipArchive zip;
  std::string& out = zip.bytes;
  for (const ZipPart& part : parts) {
    zip.headers.push_back(out.size());
    const std::string& name = part.local_name.empty() ? part.name : part.local_name;
    const size_t size = part.local_size < 0 ? 0 : static_cast<size_t>(part.local_size);
    const size_t padding = (64 - (out.size() + 30 + name.size() + 4) % 64) % 64 + part.shift;
    out += "PK\3\4" + little(0, 2) + little(part.flags, 2) + little(part.method, 2) + little(0, 8) +
           little(size, 4) + little(size, 4) + little(name.size(), 2) + little(4 + padding, 2) + name + "FB" +
           little(padding, 2) + std::string(padding, 'Z');
    zip.contents.push_back(out.size());
    out += part.bytes;
    if ((part.flags & 1 << 3) != 0)
      out += "PK\7\x08" + little(0, 4) + little(part.bytes.size(), 4) + little(part.bytes.size(), 4);
  }
  zip.directory = out.size();
  for (size_t i = 0; i < parts.size(); ++i) {
    const ZipPart& part = parts[i];
    const uint64_t size = part.size < 0 ? part.bytes.size() : static_cast<uint64_t>(part.size);
    const uint64_t begin = part.begin < 0 ? zip.headers[i] : static_cast<uint64_t>(part.begin);
    const std::string extra =
        part.wide ? little(1, 2) + little(24, 2) + little(size, 8) + little(size, 8) + little(begin, 8) : "";
    const uint64_t in64 = 0xFFFFFFFF;
    zip.central.push_back(out.size());
    out += "PK\1\2" + little(0, 4) + little(part.flags, 2) + little(part.method, 2) + little(0, 8) +
           little(part.wide ? in64 : size, 4) + little(part.wide ? in64 : size, 4) +
           little(part.name.size(), 2) + little(extra.size(), 2) + little(0, 10) +
           little(part.wide ? in64 : begin, 4) + part.name + extra;
  }
  const uint64_t entries = count < 0 ? parts.size() : static_cast<uint64_t>(count);
  const size_t record = out.size(), size = record - zip.directory;
  if (zip64) {
    out += "PK\6\6" + little(44, 8) + little(0, 12) + little(entries, 8) + little(entries, 8) +
           little(size, 8) + little(zip.directory, 8);
    out += "PK\6\7" + little(0, 4) + little(record, 8) + little(1, 4);
  }
  zip.end = out.size();
  out += "PK\5\6" + little(0, 4) + little(entries, 2) + little(entries, 2) + little(size, 4) +
         little(zip.directory, 4) + little(0, 2);
  return zip;
}

// ---- the opcodes of a pickle as torch.save writes them
inline std::string text_op(const std::string& text) {
  return "X" + little(text.size(), 4) + text;
}
inline std::string int_op(int64_t value) {
  return "\x8a\x08" + little(static_cast<uint64_t>(value), 8);
}
inline std::string ints_op(const std::vector<int64_t>& values) {
  std::string ops = "(";
  for (const int64_t value : values) ops += int_op(value);
  return ops + "t";
}
inline std::string storage_op(const std::string& type, const std::string& key, int64_t elements) {
  return "(" + text_op("storage") + "ctorch\n" + type + "\n" + text_op(key) + text_op("cpu") +
         int_op(elements) + "tQ";
}
inline std::string tensor_op(const std::string& storage, int64_t offset, const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + int_op(offset) + ints_op(shape) +
         ints_op(strides) +
         "\x89"
         "ccollections\nOrderedDict\n)RtR";
}
inline std::string pickle_of(const std::string& ops) {
  return "\x80\x02" + ops + ".";
}
inline std::string dict_op(const std::string& items) {
  return "}(" + items + "u";
}

/// The parts of an archive with this pickle and these storages ("0", "1", ...).
inline std::vector<ZipPart> torch_parts(const std::string& pickle, const std::vector<std::string>& storages) {
  std::vector<ZipPart> parts{{"a/data.pkl", pickle}, {"a/byteorder", "little"}};
  for (size_t i = 0; i < storages.size(); ++i) parts.push_back({"a/data/" + std::to_string(i), storages[i]});
  parts.push_back({"a/version", "3\n"});
  return parts;
}

}  // namespace surgery
