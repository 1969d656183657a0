#pragma once
#include <filesystem>
#include <string>
#include <string_view>

namespace surgery {

/// The temporary name under which `path` is written before it is committed (same folder; unique per process).
std::filesystem::path temporary_name(const std::filesystem::path& path);

/// Commits a fully written temporary: fsync file, rename to `path`, fsync the folder. Throws Error{io}.
void commit_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// Writes a whole small file atomically.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Reads a whole small file; Error{io} if it cannot be read or exceeds `limit_bytes`.
std::string read_file(const std::filesystem::path& path, size_t limit_bytes = size_t{1} << 30);

/// Renames a damaged file to NAME.bad (NAME.bad.1, ...) and warns with the reason; never deletes.
void set_aside(const std::filesystem::path& path, const std::string& reason);

/// Removes temporaries that a killed process left in `folder` (not recursive; only of processes that are gone).
void remove_stale_temporaries(const std::filesystem::path& folder);

/// XXH3-128 of bytes, as 32 hex digits.
std::string hash_bytes(std::string_view bytes);
std::string hash_file(const std::filesystem::path& path);

}  // namespace surgery
