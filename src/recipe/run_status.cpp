#include "recipe/run_status.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "base/errors.h"
#include "data/latent_shard.h"
#include "data/shapes.h"
#include "data/video.h"
#include "recipe/block_file.h"
#include "recipe/finetune_checkpoint.h"
#include "recipe/sample_set.h"
#include "storage/atomic_file.h"
#include "storage/checkpoint.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kReportStamp = "<!-- surgery report ";

/// Names in a folder; none where there is no folder.
std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    names.insert(entry.path().filename().string());
  return names;
}

/// Of `count` files, how many are there; `path_of` gives the place of each, all in one folder.
template <class PathOf>
int64_t count_files(int64_t count, const PathOf& path_of) {
  if (count == 0) return 0;
  const std::set<std::string> names = names_in(path_of(0).parent_path());
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += names.contains(path_of(i).filename().string()) ? 1 : 0;
  return found;
}

StageStatus single(const std::string& stage, const std::string& command, std::vector<fs::path> files) {
  const bool there = std::ranges::all_of(files, [](const fs::path& file) { return fs::exists(file); });
  return {stage, command, "file", there ? 1 : 0, 1};
}

int64_t lines_of(const fs::path& path) {
  std::ifstream file(path);
  int64_t count = 0;
  for (std::string line; std::getline(file, line);) ++count;
  return count;
}

StageStatus trajectories(const Config& config, const RunDirectory& run) {
  const int64_t wanted = config.trajectories.count + config.trajectories.held_out;
  return {"trajectories", "cache", "prompts",
          count_files(wanted, [&](int64_t i) { return run.trajectory(i); }), wanted};
}

StageStatus distill(const RunDirectory& run, int64_t blocks) {
  StageStatus status{"distill", "distill", "blocks", 0, blocks};
  for (int64_t b = 0; b < blocks; ++b)
    if (fs::exists(run.block(b))) try {
        status.exists += block_is_done(run.block(b)) ? 1 : 0;
      } catch (const Error&) {  // the stage will set it aside
      }
  return status;
}

/// Clips that are in a shard or were left out by name. How many a listing holds, only reading it would show:
/// the shards' own count ("-of-00012") tells when it has been gone through.
StageStatus encode(const Config& config, const RunDirectory& run) {
  StageStatus status{"encode", "encode", "clips", 0, std::nullopt};
  const DataSection& d = config.data;
  std::vector<fs::path> shards;
  for (const std::string& name : names_in(run.latents()))
    if (name.ends_with(".h5") && !name.starts_with('.')) shards.push_back(run.latents() / name);
  bool whole = !shards.empty();
  for (const fs::path& shard : shards) try {
      status.exists += LatentShard(shard).size() + lines_of(shard_rejects(shard));
      whole = whole && shard.stem().string().ends_with(fmt::format("-of-{:05d}", shards.size()));
    } catch (const Error&) {
      whole = false;
    }
  if (const auto split = parse_shapes_split(d.videos))
    status.wanted = d.count > 0 ? d.count : shapes_split_size(*split);
  else if (whole)
    status.wanted = status.exists;
  else if (d.count > 0)
    status.wanted = d.count;
  return status;
}

StageStatus finetune(const Config& config, const RunDirectory& run) {
  const FinetuneSection& f = config.finetune;
  const auto from =
      resumable_step(checkpoint_steps(run.finetune()), milestone_list(f.checkpoints, f.iterations));
  return {"finetune", "finetune", "steps", from.value_or(0), f.iterations};
}

StageStatus generate(const Config& config, const RunDirectory& run) {
  const GenerateSection& g = config.generate;
  StageStatus status{"generate", "generate", "clips", 0, std::nullopt};
  std::vector<std::string> videos;
  try {
    videos = video_names(recipe_prompts(g.prompts, g.count, "generate.prompts"), g.samples);
  } catch (const Error&) {  // the list cannot be read: how many clips is not known
    return status;
  }
  const auto variants = sample_variants(config);
  status.wanted = std::ssize(videos) * std::ssize(variants);
  for (const std::string& variant : variants) {
    const auto samples = names_in(run.samples(variant)), there = names_in(video_folder(config, variant));
    for (size_t i = 0; i < videos.size(); ++i) {
      const auto sample = sample_path(run, variant, static_cast<int64_t>(i)).filename().string();
      const bool shown = !video_supported() || there.contains(videos[i]);
      status.exists += samples.contains(sample) && shown ? 1 : 0;
    }
  }
  return status;
}

}  // namespace

std::string StageStatus::count() const {
  return wanted ? fmt::format("{} of {}", exists, *wanted) : fmt::format("{}", exists);
}

std::vector<StageStatus> run_status(const Config& config, int64_t blocks) {
  const RunDirectory run(config.run.directory);
  std::vector<StageStatus> stages;
  if (config.trajectories.source != "live") stages.push_back(trajectories(config, run));
  stages.push_back(distill(run, blocks));
  stages.push_back(single("tables", "tables", {run.tables_csv(), run.tables_h5()}));
  stages.push_back(single("select", "select", {run.selection()}));
  if (config.data.shards.empty()) stages.push_back(encode(config, run));
  if (config.finetune.iterations > 0) stages.push_back(finetune(config, run));
  stages.push_back(single("model", "run", {run.model_stamp()}));
  stages.push_back(generate(config, run));
  stages.push_back(single("evaluate", "evaluate", {run.evaluation()}));
  stages.push_back(single("report", "report", {run.report()}));
  StageStatus& report = stages.back();
  if (report.exists > 0 && read_file(run.report()).find(kReportStamp) == std::string::npos) report.exists = 0;
  return stages;
}

std::string missing_text(const std::vector<StageStatus>& stages) {
  std::string text;
  for (const StageStatus& stage : stages) {
    if (stage.complete()) continue;
    text += (text.empty() ? "" : ", ") + stage.stage;
    if (stage.unit != "file") text += fmt::format(" ({} {} there)", stage.count(), stage.unit);
  }
  return text;
}

std::string existing_text(const std::vector<StageStatus>& stages) {
  std::string text;
  for (const StageStatus& stage : stages) {
    if (stage.exists == 0) continue;
    text += (text.empty() ? "" : ", ") + stage.stage;
    if (stage.unit != "file") text += fmt::format(" ({} {})", stage.count(), stage.unit);
  }
  return text;
}

std::string report_stamp(const std::string& fingerprint) {
  return fmt::format("{}{} -->", kReportStamp, fingerprint);
}

}  // namespace surgery
