#include "storage/checkpoint.h"

#include <algorithm>

#include "base/errors.h"
#include "base/log.h"
#include "base/text.h"
#include "storage/atomic_file.h"
#include "storage/strict_json.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kFormat = "surgery-checkpoint";
constexpr int kVersion = 1;
constexpr std::string_view kPrefix = "step-";

/// -1 for a folder that is no checkpoint's.
int64_t step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return -1;
  return parse_number<int64_t>(std::string_view(name).substr(kPrefix.size())).value_or(-1);
}

std::string manifest_hash(const Json& manifest) {
  Json rest = manifest;
  rest.erase("hash");
  return hash_bytes(rest.dump());
}

std::vector<CheckpointFile> manifest_files(const Json& manifest, const fs::path& path) {
  std::vector<CheckpointFile> files;
  for (const Json& row : manifest.at("files")) {
    CheckpointFile file{row.at("name").get<std::string>(), row.at("bytes").get<uint64_t>(),
                        row.at("hash").get<std::string>()};
    VALIDATE(!file.name.empty() && file.name.find('/') == std::string::npos && file.name != ".." &&
                 file.name != ".",
             "{}: file name \"{}\" leads out of the folder (hostile manifest?)", path.string(), file.name);
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

fs::path checkpoint_folder(const fs::path& root, int64_t step) {
  return root / fmt::format("{}{:06}", kPrefix, step);
}

fs::path begin_checkpoint(const fs::path& root, int64_t step) {
  std::error_code error;
  fs::create_directories(root, error);
  if (!error) remove_stale_temporaries(root);
  const fs::path temporary = temporary_name(checkpoint_folder(root, step));
  if (!error) fs::create_directory(temporary, error);
  if (error) fail_io("{}: cannot be made: {}", temporary.string(), error.message());
  return temporary;
}

CheckpointFile seal_file(const fs::path& folder, const std::string& name) {
  const fs::path path = folder / name;
  sync_to_disk(path);
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) fail_io("{}: cannot be read: {}", path.string(), error.message());
  return {name, bytes, hash_file(path)};
}

Checkpoint commit_checkpoint(const fs::path& temporary, int64_t step, std::vector<CheckpointFile> files,
                             const Json& metadata) {
  std::ranges::sort(files, {}, &CheckpointFile::name);
  Json rows = Json::array();
  for (const CheckpointFile& file : files) {
    std::error_code error;
    const uint64_t bytes = fs::file_size(temporary / file.name, error);
    if (error || bytes != file.bytes)
      fail_io(
          "{}: is not there with its {} bytes (the ranks see different files): check that all nodes share "
          "the "
          "folder",
          (temporary / file.name).string(), file.bytes);
    rows.push_back({{"name", file.name}, {"bytes", file.bytes}, {"hash", file.hash}});
  }
  Json manifest{
      {"format", kFormat}, {"version", kVersion}, {"step", step}, {"files", rows}, {"metadata", metadata}};
  manifest["hash"] = manifest_hash(manifest);
  write_file(temporary / kManifest, manifest.dump(1) + "\n");  // flushes the folder too
  const fs::path folder = checkpoint_folder(temporary.parent_path(), step);
  commit_folder(temporary, folder);
  return {folder, step, std::move(files), metadata};
}

Checkpoint open_checkpoint(const fs::path& folder, CheckpointCheck check) {
  const fs::path path = folder / kManifest;
  if (!fs::exists(folder)) fail_io("{}: no such checkpoint: make it first, or name another", folder.string());
  VALIDATE(fs::is_regular_file(path), "{}: no manifest.json (not a whole checkpoint): name another",
           folder.string());
  const Json manifest = read_json_file(path.string());
  Checkpoint checkpoint;
  checkpoint.folder = folder;
  try {
    VALIDATE(manifest.at("format") == kFormat && manifest.at("version") == kVersion,
             "{}: not a checkpoint of this release: name another", path.string());
    VALIDATE(manifest.at("hash") == manifest_hash(manifest),
             "{}: hash differs (file damaged): name another checkpoint", path.string());
    checkpoint.step = manifest.at("step").get<int64_t>();
    checkpoint.files = manifest_files(manifest, path);
    checkpoint.metadata = manifest.at("metadata");
  } catch (const Json::exception& error) {
    fail_data("{}: not a checkpoint's manifest (damaged or foreign file): {}", path.string(), error.what());
  }
  for (const CheckpointFile& file : checkpoint.files) {
    const fs::path part = folder / file.name;
    std::error_code error;
    const uint64_t bytes = fs::file_size(part, error);
    VALIDATE(!error, "{}: is missing (incomplete checkpoint): name another", part.string());
    VALIDATE(bytes == file.bytes, "{}: has {} bytes instead of {} (truncated): name another checkpoint",
             part.string(), bytes, file.bytes);
    VALIDATE(check == CheckpointCheck::sizes || hash_file(part) == file.hash,
             "{}: hash differs (file damaged): name another checkpoint", part.string());
  }
  return checkpoint;
}

std::vector<int64_t> checkpoint_steps(const fs::path& root) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(root, error)) {
    const int64_t step = step_of(entry.path().filename().string());
    if (step >= 0 && checkpoint_folder(root, step) == entry.path()) steps.push_back(step);
  }
  std::ranges::sort(steps);
  return steps;
}

void prune_checkpoints(const fs::path& root, int64_t newest, int64_t keep,
                       std::span<const int64_t> milestones) {
  std::vector<int64_t> steps = checkpoint_steps(root);
  std::erase_if(steps, [&](int64_t step) { return step > newest; });
  const int64_t surplus = static_cast<int64_t>(steps.size()) - std::max<int64_t>(2, keep);
  if (surplus <= 0) return;
  steps.resize(static_cast<size_t>(surplus));
  for (const int64_t step : steps)
    if (std::ranges::find(milestones, step) == milestones.end()) remove_folder(checkpoint_folder(root, step));
}

}  // namespace surgery
