#pragma once
#include <string>

namespace surgery {

/// Version of a library as its headers said at build time and as it says itself at run time.
struct LibraryVersion {
  std::string name, header, runtime;  ///< runtime empty: the library does not tell
};
LibraryVersion hdf5_version();
LibraryVersion xxhash_version();

}  // namespace surgery
