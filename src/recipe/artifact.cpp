#include "recipe/artifact.h"

#include "base/errors.h"
#include "base/log.h"
#include "storage/atomic_file.h"

namespace surgery {

void take_from_base(const RunDirectory& run, const std::filesystem::path& path,
                    const std::string& fingerprint,
                    const std::function<std::string(const std::filesystem::path&)>& read_fingerprint) {
  const auto theirs = run.in_base(path);
  if (theirs.empty() || std::filesystem::exists(path) || !std::filesystem::exists(theirs)) return;
  try {
    if (read_fingerprint(theirs) != fingerprint) return;
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    log_warning("{} is not taken: {}", theirs.string(), error.what());
    return;
  }
  std::error_code error;
  std::filesystem::create_hard_link(theirs, path, error);
  if (!error) return;
  const auto temporary = temporary_name(path);
  std::filesystem::copy_file(theirs, temporary, error);
  if (error) fail_io("{}: cannot be copied to {}: {}", theirs.string(), path.string(), error.message());
  commit_file(temporary, path);
}

ArtifactState check_artifact(
    const RunDirectory& run, const std::filesystem::path& path, const std::string& fingerprint,
    const std::function<std::string(const std::filesystem::path&)>& read_fingerprint) {
  take_from_base(run, path, fingerprint, read_fingerprint);
  if (!std::filesystem::exists(path)) return ArtifactState::missing;
  std::string found;
  try {
    found = read_fingerprint(path);
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    set_aside(path, error.what());
    return ArtifactState::missing;
  }
  require_fingerprint(path, found, fingerprint);
  return ArtifactState::present;
}

void require_fingerprint(const std::filesystem::path& path, const std::string& found,
                         const std::string& expected, std::string_view remake) {
  if (found != expected)
    fail_usage("{} was made with other settings or another model (fingerprint {} instead of {}): {}",
               path.string(), found, expected,
               remake.empty() ? "choose another run.directory, or move the file away to have it made again"
                              : fmt::format("run '{}' again", remake));
}

void require_file(const std::filesystem::path& path, std::string_view command) {
  if (!std::filesystem::exists(path)) fail_io("{}: is not there: run '{}' first", path.string(), command);
}

std::string make_fingerprint(const std::vector<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) joined += fmt::format("{}:{};", part.size(), part);
  return hash_bytes(joined).substr(0, 16);
}

}  // namespace surgery
