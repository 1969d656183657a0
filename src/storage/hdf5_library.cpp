#define XXH_INLINE_ALL
#include "storage/hdf5_library.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>

#include "base/errors.h"

namespace surgery::hdf5 {
namespace {

static_assert(std::is_same_v<hid_t, int64_t>);
static_assert(std::endian::native == std::endian::little, "files are little-endian and written as raw words");

constexpr std::array kWritten{DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8};

/// The innermost entry of the error stack says what happened; the outer ones only who called whom.
herr_t append_message(unsigned, const H5E_error2_t* error, void* text) {
  std::string& message = *static_cast<std::string*>(text);
  if (error->desc != nullptr && *error->desc != 0) {
    if (!message.empty()) message += " < ";
    message += error->desc;
  }
  return 0;
}

Handle copy_type(hid_t type) {
  return {H5_CHECK(H5Tcopy(type)), H5Tclose};
}

}  // namespace

void fail_call(const char* expression, const char* file, int line) {
  std::string message;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, append_message, &message);
  H5Eclear2(H5E_DEFAULT);
  throw Failure(fmt::format("{} [{} at {}:{}]", message.empty() ? "no message from HDF5" : message,
                            expression, file, line));
}

std::unique_lock<std::recursive_mutex> lock_library() {
  static std::recursive_mutex mutex;
  std::unique_lock lock(mutex);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // per thread: the library would print its stack by itself
  return lock;
}

Handle file_access() {
  Handle list(H5_CHECK(H5Pcreate(H5P_FILE_ACCESS)), H5Pclose);
  H5_CHECK(H5Pset_fclose_degree(list, H5F_CLOSE_STRONG));
  H5_CHECK(H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110));
  H5_CHECK(H5Pset_file_locking(list, false, true));
  return list;
}

Handle element_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return copy_type(H5T_IEEE_F64LE);
    case DType::f32:
      return copy_type(H5T_IEEE_F32LE);
    case DType::i64:
      return copy_type(H5T_STD_I64LE);
    case DType::i32:
      return copy_type(H5T_STD_I32LE);
    case DType::u8:
      return copy_type(H5T_STD_U8LE);
    case DType::bf16: {
      Handle type = copy_type(H5T_IEEE_F32LE);
      H5_CHECK(H5Tset_fields(type, 15, 7, 8, 0, 7));
      H5_CHECK(H5Tset_ebias(type, 127));
      H5_CHECK(H5Tset_precision(type, 16));
      H5_CHECK(H5Tset_size(type, 2));
      return type;
    }
    default:
      fail_data("dtype {} has no place in HDF5 artifacts: convert the tensor first", dtype_name(dtype));
  }
}

DType element_dtype(hid_t type) {
  for (const DType dtype : kWritten)
    if (H5_CHECK(H5Tequal(type, element_type(dtype))) > 0) return dtype;
  throw Failure("an element type that this program does not write");
}

std::string describe(const std::string& name, const Attribute& attribute) {
  switch (attribute.kind) {
    case Attribute::Kind::text:
      return fmt::format("attribute {} text {}", name, attribute.text);
    case Attribute::Kind::integer:
      return fmt::format("attribute {} integer {}", name, attribute.integer);
    case Attribute::Kind::real:
      return fmt::format("attribute {} real {:016x}", name, std::bit_cast<uint64_t>(attribute.real));
  }
  return name;
}

std::string describe(const std::string& name, const Dataset& dataset) {
  return fmt::format("dataset {} {} [{}] {:016x}", name, dtype_name(dataset.dtype),
                     fmt::join(dataset.shape, ","), dataset.hash);
}

uint64_t checksum(std::vector<std::string> lines) {
  std::ranges::sort(lines);
  std::string all;
  for (const std::string& line : lines) all += line + '\n';
  return xxh64(all.data(), all.size());
}

uint64_t xxh64(const void* bytes, size_t count) {
  return XXH64(bytes, count, 0);
}

}  // namespace surgery::hdf5
