#include "recipe/encode_web_dataset.h"

#include <chrono>

#include "base/errors.h"
#include "data/web_dataset.h"
#include "recipe/artifact.h"
#include "recipe/data_section.h"
#include "recipe/latent_set.h"
#include "recipe/shard_job.h"

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

}  // namespace

void check_web_dataset(const Config& config) {
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
  WebShard(list_web_shards(config.data.videos).front());
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
