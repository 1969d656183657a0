#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "base/errors.h"
#include "storage/hdf5_file.h"
#include "storage/hdf5_library.h"
#include "storage/tensor_store.h"

namespace surgery {
namespace {

using hdf5::Handle;
namespace fs = std::filesystem;
constexpr size_t kObjectLimit = 1'000'000;

herr_t collect_link(hid_t, const char* name, const H5L_info_t* link, void* names) {
  auto& result = *static_cast<std::vector<std::string>*>(names);
  // Soft and external links could lead out of the file; none of ours has any.
  if (link->type != H5L_TYPE_HARD || result.size() >= kObjectLimit) return -1;
  result.emplace_back(name);
  return 0;
}

herr_t collect_attribute(hid_t, const char* name, const H5A_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

hdf5::Attribute read_attribute(hid_t file, const std::string& name) {
  const Handle attribute(H5_CHECK(H5Aopen(file, name.c_str(), H5P_DEFAULT)), H5Aclose);
  const Handle type(H5_CHECK(H5Aget_type(attribute)), H5Tclose);
  const Handle space(H5_CHECK(H5Aget_space(attribute)), H5Sclose);
  if (H5_CHECK(H5Sget_simple_extent_npoints(space)) != 1)
    throw hdf5::Failure("attribute " + name + " is no scalar");
  hdf5::Attribute result;
  if (H5_CHECK(H5Tequal(type, H5T_STD_I64LE)) > 0) {
    result.kind = hdf5::Attribute::Kind::integer;
    H5_CHECK(H5Aread(attribute, type, &result.integer));
  } else if (H5_CHECK(H5Tequal(type, H5T_IEEE_F64LE)) > 0) {
    result.kind = hdf5::Attribute::Kind::real;
    H5_CHECK(H5Aread(attribute, type, &result.real));
  } else if (H5Tget_class(type) == H5T_STRING && H5_CHECK(H5Tis_variable_str(type)) == 0) {
    result.text.resize(H5Tget_size(type));
    H5_CHECK(H5Aread(attribute, type, result.text.data()));
    result.text.resize(std::strlen(result.text.c_str()));
  } else {
    throw hdf5::Failure("attribute " + name + " has a type that this program does not write");
  }
  return result;
}

uint64_t read_hash(hid_t object, const char* name) {
  uint64_t value = 0;
  const Handle attribute(H5_CHECK(H5Aopen(object, name, H5P_DEFAULT)), H5Aclose);
  const Handle type(H5_CHECK(H5Aget_type(attribute)), H5Tclose);
  if (H5_CHECK(H5Tequal(type, H5T_STD_U64LE)) == 0 || H5Aget_storage_size(attribute) != sizeof value)
    throw hdf5::Failure(std::string(name) + " is no 64-bit hash");
  H5_CHECK(H5Aread(attribute, type, &value));
  return value;
}

hdf5::Dataset read_dataset(hid_t object, uint64_t file_bytes) {
  const Handle type(H5_CHECK(H5Dget_type(object)), H5Tclose);
  const Handle space(H5_CHECK(H5Dget_space(object)), H5Sclose);
  const Handle creation(H5_CHECK(H5Dget_create_plist(object)), H5Pclose);
  if (H5Pget_layout(creation) != H5D_CONTIGUOUS || H5_CHECK(H5Pget_external_count(creation)) != 0)
    throw hdf5::Failure("a dataset is not stored in one piece");
  hdf5::Dataset dataset;
  dataset.dtype = hdf5::element_dtype(type);
  std::vector<hsize_t> shape(static_cast<size_t>(H5_CHECK(H5Sget_simple_extent_ndims(space))));
  H5_CHECK(H5Sget_simple_extent_dims(space, shape.data(), nullptr));
  dataset.bytes = static_cast<uint64_t>(dtype_bytes(dataset.dtype));
  int64_t span = dtype_bytes(dataset.dtype);  // what strides are made from, without elements too
  for (const hsize_t extent : shape) {
    if (__builtin_mul_overflow(span, std::max<hsize_t>(extent, 1), &span))
      throw hdf5::Failure("a shape is too large");
    dataset.bytes *= extent;
    dataset.shape.push_back(static_cast<int64_t>(extent));
  }
  if (dataset.bytes > 0) {
    dataset.offset = H5Dget_offset(object);
    if (dataset.offset > file_bytes || dataset.bytes > file_bytes - dataset.offset)
      throw hdf5::Failure("a dataset reaches beyond the end of the file");
  }
  dataset.hash = read_hash(object, hdf5::kHash);
  return dataset;
}

}  // namespace

/// All structure is read once, under the library's lock; data are then read by position, from any thread.
struct Hdf5Reader::State {
  fs::path path;
  int descriptor = -1;
  uint64_t file_bytes = 0;
  std::map<std::string, hdf5::Attribute> attributes;
  std::map<std::string, hdf5::Dataset> datasets;

  ~State() {
    if (descriptor >= 0) ::close(descriptor);
  }

  void open(const fs::path& file) {
    path = file;
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (descriptor < 0 || ::fstat(descriptor, &info) != 0)
      fail_io("{}: cannot be read: {}", path.string(), std::strerror(errno));
    if (!S_ISREG(info.st_mode)) fail_io("{}: is not a regular file: name an HDF5 file", path.string());
    file_bytes = static_cast<uint64_t>(info.st_size);
    const auto lock = hdf5::lock_library();
    try {
      read_structure();
    } catch (const hdf5::Failure& failure) {
      fail_data("{}: not a whole artifact of this program (truncated, damaged or foreign file): {}",
                path.string(), failure.what());
    }
  }

  void read_structure() {
    const Handle file(H5_CHECK(H5Fopen(path.c_str(), H5F_ACC_RDONLY, hdf5::file_access())), H5Fclose);
    std::vector<std::string> names, lines;
    H5_CHECK(H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_attribute, &names));
    for (const std::string& name : names) {
      if (name == hdf5::kChecksum) continue;
      attributes[name] = read_attribute(file, name);
      lines.push_back(hdf5::describe(name, attributes[name]));
    }
    names.clear();
    H5_CHECK(H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, collect_link, &names));
    for (const std::string& name : names) {
      const Handle object(H5_CHECK(H5Oopen(file, name.c_str(), H5P_DEFAULT)), H5Oclose);
      if (H5Iget_type(object) == H5I_GROUP) continue;
      if (H5Iget_type(object) != H5I_DATASET) throw hdf5::Failure(name + " is neither group nor dataset");
      datasets[name] = read_dataset(object, file_bytes);
      lines.push_back(hdf5::describe(name, datasets[name]));
    }
    check_apart();
    if (!attributes.contains(hdf5::kFormat) || !attributes.contains(hdf5::kVersion))
      throw hdf5::Failure("no attribute format or format_version");
    if (read_hash(file, hdf5::kChecksum) != hdf5::checksum(lines)) throw hdf5::Failure("checksum differs");
  }

  /// Each byte belongs to one dataset at most: together they are no larger than the file.
  void check_apart() const {
    std::vector<std::pair<uint64_t, uint64_t>> pieces;  // begin, end
    for (const auto& [name, dataset] : datasets)
      if (dataset.bytes > 0) pieces.emplace_back(dataset.offset, dataset.offset + dataset.bytes);
    std::ranges::sort(pieces);
    uint64_t last = 0;
    for (const auto& [begin, end] : pieces) {
      if (begin < last) throw hdf5::Failure("two datasets share bytes");
      last = end;
    }
  }

  const hdf5::Attribute& attribute(const std::string& name, hdf5::Attribute::Kind kind) const {
    const auto found = attributes.find(name);
    VALIDATE(found != attributes.end() && found->second.kind == kind,
             "{}: attribute \"{}\" is missing or of another type (written by another version?): make the "
             "file again",
             path.string(), name);
    return found->second;
  }

  const hdf5::Dataset& dataset(const std::string& name) const {
    const auto found = datasets.find(name);
    VALIDATE(found != datasets.end(),
             "{}: dataset \"{}\" is missing (written by another version?): make it again", path.string(),
             name);
    return found->second;
  }

  at::Tensor read(const hdf5::Dataset& from, std::vector<int64_t> shape, uint64_t skip) const {
    at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(to_torch(from.dtype)));
    char* target = static_cast<char*>(tensor.data_ptr());
    for (size_t done = 0; done < tensor.nbytes();) {
      const ssize_t count = ::pread(descriptor, target + done, tensor.nbytes() - done,
                                    static_cast<off_t>(from.offset + skip + done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_io("{}: reading failed: {}", path.string(), std::strerror(errno));
      VALIDATE(count > 0, "{}: became shorter while it was read (damaged file): make it again",
               path.string());
      done += static_cast<size_t>(count);
    }
    return tensor;
  }
};

Hdf5Reader::Hdf5Reader(const fs::path& path, const std::string& format, int version, Verify verify)
    : state_(std::make_unique<State>()) {
  state_->open(path);
  const std::string found = attribute_text(hdf5::kFormat);
  VALIDATE(found == format, "{}: holds \"{}\", not \"{}\" (wrong kind of artifact): name the right file",
           path.string(), found, format);
  VALIDATE(attribute_int(hdf5::kVersion) == version,
           "{}: format version {}, this program reads {} (written by another release): make it again",
           path.string(), attribute_int(hdf5::kVersion), version);
  if (verify == Verify::header) return;
  for (const auto& [name, description] : state_->datasets) {
    const at::Tensor tensor = dataset(name);
    VALIDATE(hdf5::xxh64(tensor.const_data_ptr(), tensor.nbytes()) == description.hash,
             "{}: checksum differs in {} (file damaged): make it again", path.string(), name);
  }
}

Hdf5Reader::~Hdf5Reader() = default;
Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;

bool Hdf5Reader::has(const std::string& name) const {
  return state_->datasets.contains(name);
}

std::vector<std::string> Hdf5Reader::datasets() const {
  std::vector<std::string> names;
  for (const auto& [name, dataset] : state_->datasets) names.push_back(name);
  return names;
}

std::string Hdf5Reader::attribute_text(const std::string& name) const {
  return state_->attribute(name, hdf5::Attribute::Kind::text).text;
}
int64_t Hdf5Reader::attribute_int(const std::string& name) const {
  return state_->attribute(name, hdf5::Attribute::Kind::integer).integer;
}
double Hdf5Reader::attribute_double(const std::string& name) const {
  return state_->attribute(name, hdf5::Attribute::Kind::real).real;
}

at::Tensor Hdf5Reader::dataset(const std::string& name) const {
  const hdf5::Dataset& description = state_->dataset(name);
  return state_->read(description, description.shape, 0);
}

at::Tensor Hdf5Reader::rows(const std::string& name, int64_t begin, int64_t count) const {
  const hdf5::Dataset& description = state_->dataset(name);
  std::vector<int64_t> shape = description.shape;
  VALIDATE(!shape.empty() && begin >= 0 && count >= 0 && begin <= shape[0] && count <= shape[0] - begin,
           "{}: rows {} to {} are not all in dataset \"{}\" (short file?): make it again",
           state_->path.string(), begin, begin + count, name);
  const uint64_t row_bytes = shape[0] == 0 ? 0 : description.bytes / static_cast<uint64_t>(shape[0]);
  shape[0] = count;
  return state_->read(description, shape, row_bytes * static_cast<uint64_t>(begin));
}

std::vector<int64_t> Hdf5Reader::shape(const std::string& name) const {
  return state_->dataset(name).shape;
}

std::string Hdf5Reader::text(const std::string& name) const {
  const at::Tensor bytes = dataset(name);
  VALIDATE(bytes.scalar_type() == at::kByte,
           "{}: dataset \"{}\" is not text (another version?): make it again", state_->path.string(), name);
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

std::vector<std::pair<std::string, std::string>> Hdf5Reader::attributes() const {
  std::vector<std::pair<std::string, std::string>> result;
  for (const auto& [name, attribute] : state_->attributes) {
    using Kind = hdf5::Attribute::Kind;
    result.emplace_back(name, attribute.kind == Kind::text      ? attribute.text
                              : attribute.kind == Kind::integer ? fmt::format("{}", attribute.integer)
                                                                : fmt::format("{}", attribute.real));
  }
  return result;
}

std::pair<std::string, int64_t> hdf5_format(const fs::path& path) {
  Hdf5Reader::State state;
  state.open(path);
  return {state.attribute(hdf5::kFormat, hdf5::Attribute::Kind::text).text,
          state.attribute(hdf5::kVersion, hdf5::Attribute::Kind::integer).integer};
}

}  // namespace surgery
