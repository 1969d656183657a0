#pragma once
// Only for the .cpp files of this folder: the rest of the program sees no HDF5 type.
#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "storage/safetensors.h"

namespace surgery::hdf5 {

/// A failed call, with the library's own message; readers turn it into Error{data}, writers into Error{io}.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Collects the library's error stack. Throws Failure.
[[noreturn]] void fail_call(const char* expression, const char* file, int line);

template <class Result>
Result check_call(Result result, const char* expression, const char* file, int line) {
  if (result < 0) fail_call(expression, file, line);
  return result;
}

/// Runs a call of the C API and gives its result; negative ids and statuses throw Failure.
#define H5_CHECK(expression) ::surgery::hdf5::check_call((expression), #expression, __FILE__, __LINE__)

/// The library keeps global state and is not built for threads everywhere: every use holds this lock.
std::unique_lock<std::recursive_mutex> lock_library();

/// Owns one id of the library.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) closer_(id_);
  }
  operator hid_t() const { return id_; }
  /// Closes now and reports the status, which a destructor could not.
  void close() {
    const hid_t id = std::exchange(id_, H5I_INVALID_HID);
    if (id >= 0) H5_CHECK(closer_(id));
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Closer closer_ = nullptr;
};

/// File access: no locking (temporary names are unique, committed files do not change), every object closed
/// with the file, and the 1.10 file format whatever newer library runs.
Handle file_access();

/// The little-endian file type of an element; bf16 is a custom 16-bit float that h5dump and h5py show as
/// numbers.
Handle element_type(DType dtype);

/// The inverse. Throws Failure for a type that this program does not write.
DType element_dtype(hid_t type);

/// What an artifact's root attribute holds, also the form in which it enters the checksum.
struct Attribute {
  enum class Kind { text, integer, real } kind = Kind::text;
  std::string text;
  int64_t integer = 0;
  double real = 0;
};

struct Dataset {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  uint64_t hash = 0;    ///< XXH64 of the bytes
  uint64_t offset = 0;  ///< in the file; meaningless without bytes
  uint64_t bytes = 0;
};

/// Text that names an attribute or a dataset with all that must not change unseen; the artifact's checksum is
/// the XXH64 over these lines, sorted.
std::string describe(const std::string& name, const Attribute& attribute);
std::string describe(const std::string& name, const Dataset& dataset);
uint64_t checksum(std::vector<std::string> lines);

uint64_t xxh64(const void* bytes, size_t count);

inline constexpr const char* kFormat = "format";
inline constexpr const char* kVersion = "format_version";
inline constexpr const char* kChecksum = "checksum";
inline constexpr const char* kHash = "xxh64";

}  // namespace surgery::hdf5
