#include "recipe/artifact.h"

#include "base/errors.h"
#include "storage/atomic_file.h"

namespace surgery {

ArtifactState check_artifact(
    const std::filesystem::path& path, const std::string& fingerprint,
    const std::function<std::string(const std::filesystem::path&)>& read_fingerprint) {
  if (!std::filesystem::exists(path)) return ArtifactState::missing;
  std::string found;
  try {
    found = read_fingerprint(path);
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    set_aside(path, error.what());
    return ArtifactState::missing;
  }
  if (found != fingerprint)
    fail_usage(
        "{} was made with other settings or another model (fingerprint {} instead of {}): choose another "
        "run.directory, "
        "or move the file away to have it made again",
        path.string(), found, fingerprint);
  return ArtifactState::present;
}

std::string make_fingerprint(const std::vector<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) joined += fmt::format("{}:{};", part.size(), part);
  return hash_bytes(joined).substr(0, 16);
}

}  // namespace surgery
