#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// An HDF5 artifact being written: goes to a temporary name, `commit` makes it appear. No time stamps, no
/// absolute paths: equal content gives equal bytes. Every dataset carries its XXH64 as attribute `xxh64`; the
/// root carries `format`, `format_version`, and `checksum` over all datasets and attributes. bf16 is a custom
/// 16-bit float (fields 15,7,8,0,7; bias 127), stored as raw words. A writer that is destroyed without commit
/// removes its temporary.
class Hdf5Writer {
 public:
  Hdf5Writer(const std::filesystem::path& path, const std::string& format, int version);
  ~Hdf5Writer();
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  void attribute(const std::string& name, const std::string& value);
  void attribute(const std::string& name, int64_t value);
  void attribute(const std::string& name, double value);
  /// Contiguous dataset; `name` may contain '/', groups are made. dtypes: f64 f32 bf16 i64 i32 u8.
  void dataset(const std::string& name, const at::Tensor& tensor);
  /// Bytes of UTF-8 as a u8 dataset.
  void text(const std::string& name, const std::string& utf8);
  /// Flush, checksum, close, fsync, rename, fsync folder. Throws Error{io}.
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads an artifact. `open` checks signature, size, format and version (and every dataset's checksum when
/// `verify` is full); throws Error{data} naming the dataset otherwise.
class Hdf5Reader {
 public:
  enum class Verify { header, full };
  Hdf5Reader(const std::filesystem::path& path, const std::string& format, int version,
             Verify verify = Verify::full);
  ~Hdf5Reader();
  Hdf5Reader(Hdf5Reader&&) noexcept;

  bool has(const std::string& name) const;
  std::vector<std::string> datasets() const;  ///< full names, sorted
  std::string attribute_text(const std::string& name) const;
  int64_t attribute_int(const std::string& name) const;
  double attribute_double(const std::string& name) const;
  at::Tensor dataset(const std::string& name) const;                             ///< CPU tensor
  at::Tensor rows(const std::string& name, int64_t begin, int64_t count) const;  ///< along the first axis
  std::vector<int64_t> shape(const std::string& name) const;
  std::string text(const std::string& name) const;
  /// Attributes of the root as text, sorted by name (for `inspect`).
  std::vector<std::pair<std::string, std::string>> attributes() const;

 private:
  friend std::pair<std::string, int64_t> hdf5_format(const std::filesystem::path& path);
  struct State;
  std::unique_ptr<State> state_;
};

/// Format name and version of any HDF5 artifact of ours, for `inspect`. Throws Error{data} if it is none.
std::pair<std::string, int64_t> hdf5_format(const std::filesystem::path& path);

}  // namespace surgery
