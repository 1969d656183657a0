#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace surgery {

// A checkpoint is a folder ROOT/step-000400 of files that several ranks wrote, and manifest.json, which names
// every file with its size and hash. It is made under a temporary name and renamed when whole, so a folder
// with this name is complete; the manifest shows whether it still is. Ranks come in only through who calls
// what:
//   rank 0     begin_checkpoint, then tells all ranks the folder
//   every rank writes its files there and seals each
//   rank 0     gathers what was sealed, commit_checkpoint, prune_checkpoints

/// One file of a checkpoint: name within the folder, bytes, XXH3-128.
struct CheckpointFile {
  std::string name;
  uint64_t bytes = 0;
  std::string hash;
  bool operator==(const CheckpointFile&) const = default;
};

struct Checkpoint {
  std::filesystem::path folder;
  int64_t step = 0;
  std::vector<CheckpointFile> files;
  nlohmann::json metadata;  ///< the caller's: world size, cursor, hash of the configuration, ...
};

/// Makes ROOT and an empty temporary folder in it, and clears away what killed processes left there.
/// Error{io}.
std::filesystem::path begin_checkpoint(const std::filesystem::path& root, int64_t step);

/// Flushes a file of the temporary folder to disk and gives its row of the manifest. Error{io}.
CheckpointFile seal_file(const std::filesystem::path& folder, const std::string& name);

/// Writes the manifest and makes the folder appear as ROOT/step-NNNNNN; a checkpoint of that step is
/// replaced. Error{io} if a sealed file is not there in its size (ranks that see different file systems).
Checkpoint commit_checkpoint(const std::filesystem::path& temporary, int64_t step,
                             std::vector<CheckpointFile> files, const nlohmann::json& metadata);

enum class CheckpointCheck { sizes, hashes };

/// Reads and checks one checkpoint folder. Error{io} when it is not there, Error{data} naming the file in it
/// that is missing or differs.
Checkpoint open_checkpoint(const std::filesystem::path& folder,
                           CheckpointCheck check = CheckpointCheck::hashes);

/// Steps with a folder under ROOT, ascending, whether valid or not.
std::vector<int64_t> checkpoint_steps(const std::filesystem::path& root);
std::filesystem::path checkpoint_folder(const std::filesystem::path& root, int64_t step);

/// Of the checkpoints up to step `newest`, removes all but the last `keep` (at least 2), sparing the
/// milestones. Later ones stay: a run that goes back for a lost milestone comes to them again.
void prune_checkpoints(const std::filesystem::path& root, int64_t newest, int64_t keep,
                       std::span<const int64_t> milestones);

}  // namespace surgery
