#include <unistd.h>

#include <set>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "storage/hdf5_file.h"
#include "storage/hdf5_library.h"
#include "storage/tensor_store.h"

namespace surgery {

using hdf5::Handle;
namespace fs = std::filesystem;

struct Hdf5Writer::State {
  fs::path path, temporary;
  Handle file;
  std::set<std::string> groups, names;
  std::vector<std::string> lines;  ///< descriptions that the checksum covers

  ~State() {
    const auto lock = hdf5::lock_library();
    file = Handle();
    if (!temporary.empty()) ::unlink(temporary.c_str());
  }

  /// Every use of the library: under its lock, and its failures as this program's.
  template <class Body>
  void guarded(Body body) {
    const auto lock = hdf5::lock_library();
    try {
      body();
    } catch (const hdf5::Failure& failure) {
      fail_io("{}: writing failed (check space, quota and permissions): {}", path.string(), failure.what());
    }
  }

  void write_attribute(hid_t object, const char* name, hid_t type, const void* value) {
    const Handle space(H5_CHECK(H5Screate(H5S_SCALAR)), H5Sclose);
    const Handle attribute(H5_CHECK(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT)),
                           H5Aclose);
    H5_CHECK(H5Awrite(attribute, type, value));
  }

  void write_attribute(const std::string& name, const hdf5::Attribute& attribute) {
    guarded([&] {
      if (attribute.kind == hdf5::Attribute::Kind::integer) {
        write_attribute(file, name.c_str(), H5T_STD_I64LE, &attribute.integer);
      } else if (attribute.kind == hdf5::Attribute::Kind::real) {
        write_attribute(file, name.c_str(), H5T_IEEE_F64LE, &attribute.real);
      } else {
        const Handle type(H5_CHECK(H5Tcopy(H5T_C_S1)), H5Tclose);
        H5_CHECK(H5Tset_size(type, std::max<size_t>(1, attribute.text.size())));
        H5_CHECK(H5Tset_strpad(type, H5T_STR_NULLPAD));
        H5_CHECK(H5Tset_cset(type, H5T_CSET_UTF8));
        write_attribute(file, name.c_str(), type, attribute.text.c_str());
      }
    });
    lines.push_back(hdf5::describe(name, attribute));
  }

  /// The groups above `name`; made one by one because implicitly made ones would carry time stamps.
  void make_groups(const std::string& name) {
    for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
      const std::string group = name.substr(0, slash);
      EXPECT(!group.empty() && group.back() != '/');
      if (!groups.insert(group).second) continue;
      const Handle properties(H5_CHECK(H5Pcreate(H5P_GROUP_CREATE)), H5Pclose);
      H5_CHECK(H5Pset_obj_track_times(properties, false));
      Handle(H5_CHECK(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, properties, H5P_DEFAULT)), H5Gclose)
          .close();
    }
  }
};

Hdf5Writer::Hdf5Writer(const fs::path& path, const std::string& format, int version)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->temporary = temporary_name(path);
  state_->guarded([&] {
    const Handle creation(H5_CHECK(H5Pcreate(H5P_FILE_CREATE)), H5Pclose);
    H5_CHECK(H5Pset_obj_track_times(creation, false));
    state_->file =
        Handle(H5_CHECK(H5Fcreate(state_->temporary.c_str(), H5F_ACC_EXCL, creation, hdf5::file_access())),
               H5Fclose);
  });
  attribute(hdf5::kFormat, format);
  attribute(hdf5::kVersion, int64_t{version});
}

Hdf5Writer::~Hdf5Writer() = default;

void Hdf5Writer::attribute(const std::string& name, const std::string& value) {
  VALIDATE(value.find('\0') == std::string::npos,
           "{}: attribute \"{}\" holds a NUL (readers would cut it there)", state_->path.string(), name);
  state_->write_attribute(name, {hdf5::Attribute::Kind::text, value, 0, 0});
}

void Hdf5Writer::attribute(const std::string& name, int64_t value) {
  state_->write_attribute(name, {hdf5::Attribute::Kind::integer, {}, value, 0});
}

void Hdf5Writer::attribute(const std::string& name, double value) {
  state_->write_attribute(name, {hdf5::Attribute::Kind::real, {}, 0, value});
}

void Hdf5Writer::dataset(const std::string& name, const at::Tensor& tensor) {
  EXPECT(!name.empty() && name.back() != '/' && state_->names.insert(name).second);
  const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
  hdf5::Dataset description{from_torch(host.scalar_type()), host.sizes().vec(), 0, 0, host.nbytes()};
  description.hash = hdf5::xxh64(host.const_data_ptr(), host.nbytes());
  state_->guarded([&] {
    state_->make_groups(name);
    const Handle type = hdf5::element_type(description.dtype);
    const std::vector<hsize_t> shape(description.shape.begin(), description.shape.end());
    const Handle space(
        shape.empty() ? H5_CHECK(H5Screate(H5S_SCALAR))
                      : H5_CHECK(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr)),
        H5Sclose);
    const Handle creation(H5_CHECK(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
    H5_CHECK(H5Pset_obj_track_times(creation, false));
    H5_CHECK(H5Pset_layout(creation, H5D_CONTIGUOUS));
    H5_CHECK(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY));
    H5_CHECK(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER));
    const Handle dataset(
        H5_CHECK(H5Dcreate2(state_->file, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT)),
        H5Dclose);
    // One type on both sides: the library's own conversion to bf16 does not round to nearest even.
    if (host.numel() > 0)
      H5_CHECK(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, host.const_data_ptr()));
    state_->write_attribute(dataset, hdf5::kHash, H5T_STD_U64LE, &description.hash);
  });
  state_->lines.push_back(hdf5::describe(name, description));
}

void Hdf5Writer::text(const std::string& name, const std::string& utf8) {
  dataset(name,
          at::from_blob(const_cast<char*>(utf8.data()), {static_cast<int64_t>(utf8.size())}, at::kByte));
}

void Hdf5Writer::commit() {
  state_->guarded([&] {
    const uint64_t total = hdf5::checksum(state_->lines);
    state_->write_attribute(state_->file, hdf5::kChecksum, H5T_STD_U64LE, &total);
    // A full disk may show only when the library flushes its buffers.
    H5_CHECK(H5Fflush(state_->file, H5F_SCOPE_GLOBAL));
    state_->file.close();
  });
  commit_file(state_->temporary, state_->path);
  state_->temporary.clear();
}

}  // namespace surgery
