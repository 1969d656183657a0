#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "storage/dtype.h"

namespace surgery {

struct SafetensorsEntry {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  ///< bytes, relative to the data section
};

struct SafetensorsHeader {
  uint64_t data_begin = 0;  ///< where the data section begins in the file, bytes
  std::map<std::string, SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Reads and checks the header of a file that lies in memory whole: at most 100 MB, strict JSON without
/// duplicate keys, every tensor's bytes those of its shape, the tensors covering the data section without
/// hole or overlap up to the file's end. Allocates in proportion to the header. `where` begins messages.
/// Throws Error{data}. (Source: the format's own audit and the limits of its reference reader.)
SafetensorsHeader read_safetensors_header(std::span<const std::byte> file, const std::string& where);

/// One safetensors file, mapped read-only, its header fully checked (spec: Hugging Face safetensors format).
/// This class does not depend on LibTorch. Throws Error{data} for a damaged file, Error{io} for an unreadable
/// one.
class SafetensorsFile {
 public:
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);
  const std::filesystem::path& path() const;
  const std::map<std::string, SafetensorsEntry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  std::span<const std::byte> bytes(const std::string& name) const;  ///< in the mapping; may be unaligned
  ~SafetensorsFile();

 private:
  SafetensorsFile();
  struct State;
  std::unique_ptr<State> state_;
};

struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  /// Gives its bytes to `write`, piece after piece; called once, when it is this tensor's turn.
  std::function<void(const std::function<void(std::span<const std::byte>)>& write)> content;
};

/// Writes one file atomically (temporary name, fsync, rename). Order and padding as the reference writer.
void write_safetensors(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace surgery
