#include "recipe/shard_job.h"

#include <algorithm>
#include <set>

#include "base/errors.h"
#include "base/log.h"
#include "recipe/artifact.h"
#include "recipe/trajectory_set.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

/// A shard of the base with this content, and the list of what was left out of it.
void take_shard(const RunDirectory& run, const ShardPlan& plan) {
  if (std::filesystem::exists(plan.path)) return;
  take_from_base(run, plan.path, plan.header.fingerprint, verified_fingerprint);
  if (!std::filesystem::exists(plan.path)) return;
  const auto rejects = shard_rejects(run.in_base(plan.path));
  if (std::filesystem::exists(rejects)) write_file(shard_rejects(plan.path), read_file(rejects));
}

/// Of the finished job: index.json, and a line that sums it up.
void keep_index(const ShardJob& job) {
  ShardIndex index = job.index;
  int64_t rejected = 0;
  for (const ShardPlan& plan : job.plans) {
    const int64_t out = shard_rejected(plan.path);
    index.shards.push_back(
        {plan.path.filename().string(), plan.header.fingerprint, LatentShard(plan.path).size() + out});
    rejected += out;
  }
  VALIDATE(index.clips() > rejected,
           "{}: none of the {} clips can be used (nothing could be learned from them): see the reasons in {}",
           job.index.source, rejected, shard_rejects(job.plans.front().path).string());
  write_shard_index(shard_index_path(job.folder), index);
  log_info("{}: {} clips in {} shards{}", job.stage, index.clips() - rejected, job.plans.size(),
           rejected > 0 ? fmt::format(", {} left out (rejects.txt beside them)", rejected) : "");
}

}  // namespace

std::vector<std::filesystem::path> other_shards(const ShardJob& job) {
  std::set<std::filesystem::path> planned;
  for (const ShardPlan& plan : job.plans) planned.insert(plan.path.filename());
  std::vector<std::filesystem::path> others;
  for (const auto& entry : std::filesystem::directory_iterator(job.folder)) {
    const auto name = entry.path().filename();
    if (name.extension() == ".h5" && !name.string().starts_with('.') && !planned.contains(name))
      others.push_back(entry.path());
  }
  return others;
}

std::string verified_fingerprint(const std::filesystem::path& shard) {
  return LatentShard(shard, LatentShard::Verify::full).header().fingerprint;
}

std::vector<int64_t> missing_shards(Recipe& recipe, const ShardJob& job) {
  if (recipe.session.rank() == 0)  // finetuning reads all of the folder
    for (const auto& other : other_shards(job)) set_aside(other, "belongs to another choice of clips");
  return missing_units(recipe, std::ssize(job.plans), [&](int64_t i) {
    const ShardPlan& plan = job.plans[static_cast<size_t>(i)];
    take_shard(recipe.run, plan);
    recipe.progress(plan.path.filename().string());
    return shard_complete(plan) ? ArtifactState::present : ArtifactState::missing;
  });
}

int64_t make_shards(Recipe& recipe, const ShardJob& job, const std::vector<int64_t>& missing,
                    const std::function<EncodeResult(size_t plan)>& make) {
  std::vector<WorkUnit> units;
  for (const int64_t i : missing) {
    const ShardPlan& plan = job.plans[static_cast<size_t>(i)];
    units.push_back({plan.path.filename().string(), std::max<double>(1, double(plan.clips.size()))});
  }
  const std::vector<size_t> left = run_units(
      recipe.session, units,
      [&](size_t u) {
        const auto plan = static_cast<size_t>(missing[u]);
        const EncodeResult result = make(plan);
        for (const RejectedRecord& bad : result.rejected)
          log_warning("{}: left out {}: {}", job.stage, bad.where, bad.reason);
        if (result.status == EncodeStatus::stopped)
          fail(ExitCode::requeue, "{}: stopped as asked", job.plans[plan].path.filename().string());
      },
      [&] { return recipe.stop_requested(); }, recipe.coordinator());
  if (left.empty() && recipe.session.rank() == 0) keep_index(job);
  return std::ssize(left);
}

}  // namespace surgery
