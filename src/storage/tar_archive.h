#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace surgery {

struct TarEntry {
  std::string name;                  ///< relative, with '/', without leading "./"
  std::span<const std::byte> bytes;  ///< the content, in the archive's bytes
};

/// What of an archive lies before its first fault, each member whole, in the archive's order.
struct TarRead {
  std::vector<TarEntry> entries;  ///< none where a name occurs twice among them: which is meant is not known
  std::string fault;              ///< what is wrong, beginning with `where`; empty: the archive is whole
};

/// The files of a tar archive that lies in memory whole (a memory map); of a damaged one (a download that
/// broke off) those that can be had.
///
/// Read are ustar, pax (`path` and `size`, of one member or of all behind a global header), GNU's long names
/// and base-256 sizes, and headers from before ustar. Directories are passed over. Faults are every other
/// kind of member (links, devices, sparse files), names that are absolute, lead out of the folder or occur
/// twice, headers whose checksum differs, members that leave the file, an archive without its end of two zero
/// blocks. Touches the headers only, and allocates in proportion to their number and names. (Source:
/// POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format"; GNU tar's manual, "Basic Tar
/// Format".)
TarRead read_tar(std::span<const std::byte> file, const std::string& where);

}  // namespace surgery
