#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace surgery {

struct ZipEntry {
  std::string_view name;             ///< in the file's bytes
  std::span<const std::byte> bytes;  ///< the content, in the file's bytes
};

/// The entries of a zip archive that lies in memory whole (a memory map), in the central directory's order.
///
/// Only what torch.save writes is read: stored entries, zip64 or not, one disk, no archive comment. Refused:
/// compressed and encrypted entries, names that occur twice or differ between local and central header,
/// entries that overlap each other or leave the file, directories that disagree with their count or place.
/// Checksums are not compared: torch.save can be told not to compute them, torch.load does not look at them,
/// and they would touch every page. Allocates in proportion to the directory. `where` begins messages. Throws
/// Error{data}. (Source: PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5.)
std::vector<ZipEntry> read_zip(std::span<const std::byte> file, const std::string& where);

}  // namespace surgery
