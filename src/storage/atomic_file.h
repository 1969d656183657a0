#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace surgery {

/// The temporary name under which `path` is written before it is committed: in the same folder, hidden,
/// unique per call, naming host and process, and keeping the suffix of `path` (".tmp-HOST-PID-N-NAME").
std::filesystem::path temporary_name(const std::filesystem::path& path);

/// Commits a fully written temporary: fsync file, rename to `path`, fsync the folder. Throws Error{io}.
void commit_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// fsync of one file or folder. Throws Error{io}.
void sync_to_disk(const std::filesystem::path& path);

/// A file being written under its temporary name; destroyed without `commit`, it leaves nothing behind.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes. Throws Error{io} (disk full, quota).
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Flush, rename, flush the folder: from here on readers see the whole file.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// Commits a folder that was made under a temporary name: flushes all that is in it, renames it to `folder`,
/// flushes the parent. A folder that is there is renamed out of sight before and removed after. So a kill at
/// any moment leaves the whole old folder, none, or the whole new one. Throws Error{io}.
void commit_folder(const std::filesystem::path& temporary, const std::filesystem::path& folder);

/// Removes a folder so that no reader finds half of it: it is renamed out of sight first. Throws Error{io} if
/// it cannot be; what is left out of sight is only warned of.
void remove_folder(const std::filesystem::path& folder);

/// A folder being made under its temporary name; destroyed without `commit`, it leaves nothing behind.
class AtomicFolder {
 public:
  /// Makes the temporary, and the folders above it. Throws Error{io}.
  explicit AtomicFolder(const std::filesystem::path& folder);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& temporary() const { return temporary_; }  ///< where the content goes
  void commit();                                                         ///< as commit_folder

 private:
  std::filesystem::path folder_, temporary_;
};

/// Writes a whole small file atomically.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Reads a whole small file; Error{io} if it cannot be read or exceeds `limit_bytes`.
std::string read_file(const std::filesystem::path& path, size_t limit_bytes = size_t{1} << 30);

/// Renames a damaged file to NAME.bad (NAME.bad.1, ...) and warns with the reason; never deletes.
void set_aside(const std::filesystem::path& path, const std::string& reason);

/// Removes temporaries that a killed process left in `folder` (not recursive; only of processes that are
/// gone: of this host by process id, of another host when untouched for a day).
void remove_stale_temporaries(const std::filesystem::path& folder);

/// XXH3-128 of bytes, as 32 hex digits.
std::string hash_bytes(std::string_view bytes);
std::string hash_file(const std::filesystem::path& path);

}  // namespace surgery
