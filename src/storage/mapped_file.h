#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace surgery {

/// A whole file in memory by memory map: nothing is read until touched. The pages are writable but private:
/// who changes a tensor in place changes a copy of its pages, never the file.
class MappedFile {
 public:
  /// Throws Error{io} for what cannot be read, is no regular file, or changes its size meanwhile.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }  ///< empty for an empty file

 private:
  MappedFile() = default;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace surgery
