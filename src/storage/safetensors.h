#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace surgery {

/// Element types of the safetensors container that this program reads and writes.
enum class DType { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };
int64_t dtype_bytes(DType dtype);
std::string dtype_name(DType dtype);  ///< safetensors' name: "F32", "BF16", ...

struct SafetensorsEntry {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  ///< bytes, relative to the data section
};

/// One safetensors file, mapped read-only, its header fully checked (spec: Hugging Face safetensors format).
/// This class does not depend on LibTorch. Throws Error{data} for a damaged file, Error{io} for an unreadable one.
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
  std::span<const std::byte> bytes;
};

/// Writes one file atomically (temporary name, fsync, rename). Order and padding as the reference writer.
void write_safetensors(const std::filesystem::path& path, std::vector<SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace surgery
