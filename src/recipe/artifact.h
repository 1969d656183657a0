#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "recipe/run_directory.h"

namespace surgery {

enum class ArtifactState { missing, present };

/// Whether an artifact can be reused. `read_fingerprint` opens and checks the file. A damaged one is set
/// aside (.bad) and counts as missing; one of another configuration throws Error{usage} naming both
/// fingerprints, since what it cost must not be thrown away silently. One that is missing is taken from the
/// run's base if it can be.
ArtifactState check_artifact(
    const RunDirectory& run, const std::filesystem::path& path, const std::string& fingerprint,
    const std::function<std::string(const std::filesystem::path&)>& read_fingerprint);

/// For a stage's input: `found`, which was read from `path`, must be what this configuration makes.
/// Error{usage} naming both fingerprints, and the command that simply makes the file again if one does.
void require_fingerprint(const std::filesystem::path& path, const std::string& found,
                         const std::string& expected, std::string_view remake = {});
/// For a stage's input: Error{io} naming the command that makes it where `path` is missing.
void require_file(const std::filesystem::path& path, std::string_view command);

/// Where `path` is missing and the run's base has it with this fingerprint: makes it a hard link to that (a
/// copy across file systems).
void take_from_base(const RunDirectory& run, const std::filesystem::path& path,
                    const std::string& fingerprint,
                    const std::function<std::string(const std::filesystem::path&)>& read_fingerprint);

/// Hash of the values that determine an artifact: settings and the fingerprints of its inputs.
std::string make_fingerprint(const std::vector<std::string>& parts);

}  // namespace surgery
