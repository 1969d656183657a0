#include "storage/version.h"

#include <fmt/format.h>
#include <hdf5.h>
#include <xxhash.h>

namespace surgery {

LibraryVersion hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  const bool told = H5get_libversion(&major, &minor, &release) >= 0;
  return {"HDF5", fmt::format("{}.{}.{}", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE),
          told ? fmt::format("{}.{}.{}", major, minor, release) : ""};
}

LibraryVersion xxhash_version() {
  return {"xxHash", fmt::format("{}.{}.{}", XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE), ""};
}

}  // namespace surgery
