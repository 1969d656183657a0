#include "recipe/encode_web_dataset.h"

#include <chrono>

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "data/web_dataset.h"
#include "recipe/artifact.h"
#include "recipe/data_section.h"
#include "recipe/latent_set.h"
#include "recipe/plan.h"
#include "recipe/shard_job.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

/// Of a tar shard: name, size and time of its last change. A changed one is converted again; reading all of a
/// set to know whether it has changed would take as long as converting it.
std::string file_text(const std::filesystem::path& tar) {
  std::error_code code;
  const uintmax_t bytes = std::filesystem::file_size(tar, code);
  const auto changed = std::filesystem::last_write_time(tar, code).time_since_epoch();
  if (code) fail_io("{}: cannot be read: {}", tar.string(), code.message());
  return fmt::format("{} {} {}", tar.filename().string(), bytes,
                     std::chrono::duration_cast<std::chrono::nanoseconds>(changed).count());
}

ShardPlan shard_plan(const WebPlan& web, const DataSection& data, const LatentSpace& space) {
  ShardPlan plan;
  plan.header = {.space = space,
                 .frames = data.frames,
                 .height = data.height,
                 .width = data.width,
                 .fps = kWebDatasetFps,
                 .source = data.videos,
                 .fingerprint = {}};
  std::string statistics;
  for (const auto* values : {&space.latents_mean, &space.latents_std})
    for (const double value : *values) statistics += fmt::format("{} ", value);
  plan.header.fingerprint =
      make_fingerprint({"web-latents-1", space.vae_hash, space.text_hash,
                        fmt::format("{} {}", space.text_length, space.text_dim), statistics,
                        fmt::format("{} {} {}", data.frames, data.height, data.width), file_text(web.tar),
                        fmt::format("{}", web.samples)});
  return plan;
}

/// What a set of finished latents leaves to choose.
void check_choice(const Config& config) {
  if (config.data.fps != kWebDatasetFps)
    fail_usage(
        "data.fps = {}: the latents of {} are of {} frames a second (they cannot be sampled anew): set "
        "data.fps = {}",
        config.data.fps, config.data.videos, kWebDatasetFps, kWebDatasetFps);
  if (const std::string choice = clip_choice(config.data); !choice.empty())
    fail_usage(
        "{}: buckets and filters are for videos; the latents of {} are taken as they are: give their shape "
        "as "
        "data.frames, data.height and data.width, and no filter",
        choice, config.data.videos);
}

/// What a rank found in one tar shard, as lines for the others: counts, then what is left out.
std::string check_shard(const WebPlan& web, const LatentSpace& space) {
  EncodeResult found;
  try {
    found = read_web_shard(web, space, [](const LatentSample&) {});
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    found.rejected = {bad_shard(web.tar, error.what())};
  }
  std::string lines = fmt::format("{}\n", found.samples);
  for (const RejectedRecord& bad : found.rejected)
    lines += fmt::format("{}\t{}\t{}\n", bad.kind, one_line(bad.where), one_line(bad.reason));
  return lines;
}

}  // namespace

void check_web_dataset(const Config& config) {
  check_choice(config);
  std::string fault;  // of the first shard
  for (const auto& tar : list_web_shards(config.data.videos)) {
    const WebShard shard(tar);
    if (shard.size() > 0) return;
    if (fault.empty()) fault = shard.fault();
  }
  throw Error(ExitCode::data, fault);
}

SetReport check_web_latents(Session& session, const Config& config, const std::filesystem::path& rejects) {
  check_choice(config);
  const DataSection& d = config.data;
  ModelSizes model;
  if (!config.model.path.empty() || !config.model.config.empty()) model = read_model_sizes(config.model);
  const LatentSpace space = latent_space(model.vae, "", "", model.text_tokens, model.transformer.text_dim);
  const auto shape = Recipe::latent_shape(d.frames, d.height, d.width);
  std::vector<WebPlan> tars = plan_web_shards(d.videos, d.count);
  SetReport report{.buckets = {{clip_shapes(d).front(), 0}}, .drops = {}};
  std::optional<AtomicFile> file;
  if (!rejects.empty() && session.rank() == 0) file.emplace(rejects);
  Progress progress("check", std::ssize(tars), "tar shards");
  const auto ranks = static_cast<size_t>(session.size());
  for (size_t begin = 0; begin < tars.size(); begin += ranks) {
    std::string mine;
    if (const size_t i = begin + static_cast<size_t>(session.rank()); i < tars.size()) {
      tars[i].latent_shape.assign(shape.begin() + 1, shape.end());
      mine = check_shard(tars[i], space);
    }
    for (const std::string& lines : session.world().gather_text(mine)) {
      for (const std::string& line : split(lines, '\n')) {
        if (line.empty()) continue;
        const std::vector<std::string> parts = split(line, '\t');
        if (parts.size() == 1) {
          report.buckets.front().second += parse_number<int64_t>(line).value();
          continue;
        }
        const RejectedRecord bad{.where = parts.at(1), .reason = parts.at(2), .kind = parts.at(0)};
        report.drops.add(bad);
        if (file) file->write(reject_line(bad));
      }
    }
    progress.advance(static_cast<int64_t>(std::min(ranks, tars.size() - begin)));
  }
  progress.finish();
  if (file) file->commit();
  report.records = report.usable() + report.drops.total();
  report.usable_by_annotation = report.taken = report.records;
  return report;
}

bool make_web_latents(Recipe& recipe) {
  const DataSection& d = recipe.config.data;
  StageTimer timer(recipe, "encode");
  check_web_dataset(recipe.config);
  const std::vector<int64_t> shape = recipe.latent_shape(d.frames, d.height, d.width);
  ShardJob job{.stage = "encode",
               .folder = recipe.run.latents(),
               .index = {.source = d.videos, .count = d.count},
               .plans = {}};
  recipe.make_folder(job.folder);
  const LatentSpace space = latent_space(recipe);
  std::vector<WebPlan> tars = plan_web_shards(d.videos, d.count);
  for (WebPlan& tar : tars) {
    tar.latent_shape.assign(shape.begin() + 1, shape.end());
    job.plans.push_back(shard_plan(tar, d, space));
    job.plans.back().path = job.folder / shard_name("latents", std::ssize(job.plans) - 1, std::ssize(tars));
  }
  const std::vector<int64_t> missing = missing_shards(recipe, job);
  const int64_t left = make_shards(recipe, job, missing, [&](size_t i) {
    return convert_web_shard(tars[i], job.plans[i], [&] {
      recipe.progress();
      return recipe.stop_requested();
    });
  });
  timer.done(std::ssize(missing) - left, std::ssize(tars) - std::ssize(missing), left);
  return left == 0;
}

}  // namespace surgery
