#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace surgery {

enum class ArtifactState { missing, present };

/// Whether an artifact can be reused. `read_fingerprint` opens and checks the file. A damaged one is set
/// aside (.bad) and counts as missing; one of another configuration throws Error{usage} naming both
/// fingerprints, since what it cost must not be thrown away silently.
ArtifactState check_artifact(
    const std::filesystem::path& path, const std::string& fingerprint,
    const std::function<std::string(const std::filesystem::path&)>& read_fingerprint);

/// Hash of the values that determine an artifact: settings and the fingerprints of its inputs.
std::string make_fingerprint(const std::vector<std::string>& parts);

}  // namespace surgery
