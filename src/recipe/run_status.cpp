#include "recipe/run_status.h"

#include <algorithm>
#include <set>

#include "base/errors.h"
#include "data/latent_shard.h"
#include "data/shapes.h"
#include "data/shard_index.h"
#include "data/video.h"
#include "recipe/block_file.h"
#include "recipe/data_section.h"
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

StageStatus single(const std::string& stage, const std::string& command, std::vector<fs::path> files) {
  const bool there = std::ranges::all_of(files, [](const fs::path& file) { return fs::exists(file); });
  return {stage, command, "file", there ? 1 : 0, 0, 1};
}

StageStatus trajectories(const Config& config, const RunDirectory& run) {
  StageStatus status{"trajectories", "cache", "prompts"};
  status.wanted = config.trajectories.count + config.trajectories.held_out;
  const auto here = names_in(run.cache()), base = names_in(run.in_base(run.cache()));
  for (int64_t i = 0; i < *status.wanted; ++i) status.add(run.trajectory(i).filename().string(), here, base);
  return status;
}

bool is_distilled(const fs::path& path) {
  try {
    return fs::exists(path) && block_is_done(path);
  } catch (const Error&) {  // the stage will set it aside
    return false;
  }
}

StageStatus distill(const RunDirectory& run, std::optional<int64_t> blocks) {
  StageStatus status{"distill", "distill", "blocks"};
  status.wanted = blocks;
  std::set<std::string> names;
  for (int64_t b = 0; blocks && b < *blocks; ++b) names.insert(run.block(b).filename().string());
  if (!blocks) names = names_in(run.distill());
  for (const std::string& name : names)
    if (const fs::path path = run.distill() / name; fs::exists(path))
      status.exists += is_distilled(path) ? 1 : 0;
    else
      status.in_base += is_distilled(run.in_base(path)) ? 1 : 0;
  return status;
}

/// The index of this choice of clips at `folder`, where encoding has come to its end.
std::optional<ShardIndex> index_of(const Config& config, const fs::path& folder) {
  const fs::path path = shard_index_path(folder);
  if (folder.empty() || !fs::exists(path)) return {};
  try {
    ShardIndex index = read_shard_index(path);
    if (index_fault(index, config).empty()) return index;
  } catch (const Error&) {  // the stage writes it again
  }
  return {};
}

/// Clips that are in a shard or were left out by name. How many a listing holds, only reading it would show;
/// the index tells when it has been gone through, here or in the base.
StageStatus encode(const Config& config, const RunDirectory& run) {
  StageStatus status{"encode", "encode", "clips"};
  const DataSection& d = config.data;
  const std::set<std::string> here = names_in(run.latents()), base = names_in(run.in_base(run.latents()));
  std::optional<ShardIndex> index = index_of(config, run.latents());
  if (!index) index = index_of(config, run.in_base(run.latents()));
  if (index) {
    status.wanted = index->clips();
    for (const ShardIndex::Shard& shard : index->shards) status.add(shard.name, here, base, shard.clips);
    return status;
  }
  const auto split = parse_shapes_split(d.videos);
  if (d.count > 0 || split) status.wanted = d.count > 0 ? d.count : shapes_split_size(*split);
  for (const std::string& name : here)
    if (name.ends_with(".h5") && !name.starts_with('.')) try {
        status.exists += LatentShard(run.latents() / name).size() + shard_rejected(run.latents() / name);
      } catch (const Error&) {  // the stage will set it aside
      }
  return status;
}

StageStatus finetune(const Config& config, const RunDirectory& run) {
  const FinetuneSection& f = config.finetune;
  const auto from =
      resumable_step(checkpoint_steps(run.finetune()), milestone_list(f.checkpoints, f.iterations));
  return {"finetune", "finetune", "steps", from.value_or(0), 0, f.iterations};
}

StageStatus generate(const Config& config, const RunDirectory& run) {
  const GenerateSection& g = config.generate;
  StageStatus status{"generate", "generate", "clips"};
  std::vector<std::string> videos;
  try {
    videos = video_names(recipe_prompts(g.prompts, g.count, "generate.prompts"), g.samples);
  } catch (const Error&) {  // the list cannot be read: how many clips is not known
    return status;
  }
  const auto variants = sample_variants(config);
  status.wanted = std::ssize(videos) * std::ssize(variants);
  for (const std::string& variant : variants) {
    const auto here = names_in(run.samples(variant)), shown = names_in(video_folder(config, variant));
    // What was finetuned, another run hardly finetuned alike.
    const auto base =
        variant_iteration(variant) ? std::set<std::string>() : names_in(run.in_base(run.samples(variant)));
    for (size_t i = 0; i < videos.size(); ++i) {
      const auto sample = sample_path(run, variant, static_cast<int64_t>(i)).filename().string();
      if (!here.contains(sample) || !video_supported() || shown.contains(videos[i]))
        status.add(sample, here, base);
    }
  }
  return status;
}

template <class Listed>
std::string listed(const std::vector<StageStatus>& stages, const Listed& is_listed, std::string_view suffix) {
  std::string text;
  for (const StageStatus& stage : stages) {
    if (!is_listed(stage)) continue;
    text += (text.empty() ? "" : ", ") + stage.stage;
    if (stage.unit == "file") continue;
    text += fmt::format(" ({} {}{}{})", stage.count(), stage.unit, suffix,
                        stage.in_base > 0 ? fmt::format(", {} in run.base", stage.in_base) : "");
  }
  return text;
}

}  // namespace

void StageStatus::add(const std::string& name, const std::set<std::string>& here,
                      const std::set<std::string>& base, int64_t pieces) {
  if (here.contains(name))
    exists += pieces;
  else if (base.contains(name))
    in_base += pieces;
}

double StageStatus::left() const {
  if (!wanted) return 1;
  return *wanted <= 0 ? 0 : std::max(0.0, 1 - double(exists + in_base) / double(*wanted));
}

std::string StageStatus::count() const {
  return wanted ? fmt::format("{} of {}", exists, *wanted) : fmt::format("{}", exists);
}

std::vector<StageStatus> run_status(const Config& config, std::optional<int64_t> blocks) {
  const RunDirectory run(config.run.directory, config.run.base);
  std::vector<StageStatus> stages;
  if (config.trajectories.source != "live") stages.push_back(trajectories(config, run));
  stages.push_back(distill(run, blocks));
  stages.push_back(single("tables", "tables", {run.tables_csv(), run.tables_h5()}));
  stages.push_back(single("select", "select", {run.selection()}));
  if (encodes_own(config.data)) stages.push_back(encode(config, run));
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
  return listed(
      stages, [](const StageStatus& stage) { return !stage.complete(); }, " there");
}

std::string existing_text(const std::vector<StageStatus>& stages) {
  return listed(
      stages, [](const StageStatus& stage) { return stage.exists + stage.in_base > 0; }, "");
}

std::string report_stamp(const std::string& fingerprint) {
  return fmt::format("{}{} -->", kReportStamp, fingerprint);
}

}  // namespace surgery
