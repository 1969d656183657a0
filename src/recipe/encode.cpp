// The finetuning set: video files and captions, through VAE and text encoder, to latent shards.
#include "data/encode.h"

#include <algorithm>

#include "base/errors.h"
#include "base/log.h"
#include "data/shapes_set.h"
#include "data/shard_index.h"
#include "data/web_dataset.h"
#include "recipe/artifact.h"
#include "recipe/encode_web_dataset.h"
#include "recipe/latent_set.h"
#include "recipe/recipe.h"
#include "recipe/shard_job.h"

namespace surgery {
namespace {

// The annotation listing; the shapes set is written out as mp4 first and then read like any other.
std::filesystem::path listing(Recipe& recipe) {
  const DataSection& d = recipe.config.data;
  if (!d.videos.starts_with("shapes:")) return d.videos;
  const auto split = parse_shapes_split(d.videos);
  if (!split)
    fail_usage("data.videos: '{}' is none of shapes:train, shapes:distill, shapes:evaluation", d.videos);
  // The files are reused by name, so everything that they depend on stands in the folder's.
  const auto folder = recipe.run.data() / "clips" /
                      fmt::format("{}-seed{}-{}x{}x{}-{}fps", to_string(*split), recipe.config.run.seed + 1,
                                  d.frames, d.height, d.width, d.fps);
  recipe.make_folder(folder);
  const auto path = write_shapes_set(
      folder, *split, d.count > 0 ? d.count : shapes_split_size(*split), recipe.config.run.seed + 1, d.frames,
      d.height, d.width, d.fps, [&](int64_t i) { return i % recipe.session.size() == recipe.session.rank(); },
      recipe.session.rank() == 0);
  recipe.session.world().barrier();
  return path;
}

/// The shards that encoding with this configuration left, all of them. Error{io} before its end, Error{usage}
/// where it was done with another choice of clips.
std::vector<std::filesystem::path> own_shards(const Recipe& recipe) {
  const DataSection& d = recipe.config.data;
  const auto path = shard_index_path(recipe.run.latents());
  require_file(path, "encode");
  const ShardIndex index = read_shard_index(path);
  if (index.source != d.videos || index.count != d.count)
    fail_usage(
        "{}: the shards hold clips of {} (data.count = {}), not of data.videos = {} (data.count = {}): run "
        "'encode' again",
        path.string(), index.source, index.count, d.videos, d.count);
  std::vector<std::filesystem::path> shards;
  for (const ShardIndex::Shard& shard : index.shards) {
    shards.push_back(recipe.run.latents() / shard.name);
    require_file(shards.back(), "encode");
    require_fingerprint(shards.back(), LatentShard(shards.back()).header().fingerprint, shard.fingerprint,
                        "encode");
  }
  return shards;
}

}  // namespace

bool make_latents(Recipe& recipe) {
  const DataSection& d = recipe.config.data;
  if (!d.shards.empty()) return true;  // given, not made
  if (is_web_dataset(d.videos)) return make_web_latents(recipe);
  StageTimer timer(recipe, "encode");
  recipe.latent_shape(d.frames, d.height, d.width);
  const Manifest manifest = read_manifest(listing(recipe));
  for (const RejectedRecord& bad : manifest.rejected)
    log_info("encode: left out {}: {}", bad.where, bad.reason);
  ClipSpec spec;
  spec.frames = d.frames;
  spec.fps = d.fps;
  spec.height = d.height;
  spec.width = d.width;
  spec.small_source = SmallSource::upscale;
  std::vector<EncodeClip> clips = encode_clips(manifest, spec, recipe.key("captions"));
  if (d.count > 0 && static_cast<int64_t>(clips.size()) > d.count) clips.resize(static_cast<size_t>(d.count));
  EncodeOptions options;
  options.folder = shard_folder(recipe);
  options.source = d.videos;
  recipe.make_folder(options.folder);
  const ShardJob job{.stage = "encode",
                     .folder = options.folder,
                     .source = d.videos,
                     .count = d.count,
                     .plans = plan_shards(clips, latent_space(recipe), options)};
  const std::vector<int64_t> missing = missing_shards(recipe, job);
  if (!missing.empty()) recipe.release_teacher();
  std::map<std::string, at::Tensor> captions;  // clips of one video often share theirs
  const EmbedPrompt embed = [&](const std::string& caption) {
    constexpr size_t kMostCaptions = 256;
    if (captions.size() >= kMostCaptions && !captions.contains(caption)) captions.clear();
    at::Tensor& rows = captions[caption];
    if (!rows.defined()) rows = recipe.embed(caption);
    return rows;
  };
  const int64_t left = make_shards(recipe, job, missing, [&](size_t i) {
    return encode_shard(job.plans[i], recipe.vae(), embed, [&] {
      recipe.progress();
      return recipe.stop_requested();
    });
  });
  recipe.release_text_encoder();
  recipe.release_vae();
  timer.done(std::ssize(missing) - left, std::ssize(job.plans) - std::ssize(missing), left);
  return left == 0;
}

struct LatentSet::State {
  std::vector<LatentShard> shards;
  std::vector<int64_t> begins;  // first index of every shard
  int64_t size = 0;
  std::string fingerprint;
};

LatentSet LatentSet::open(Recipe& recipe) {
  LatentSet set;
  set.state_ = std::make_shared<State>();
  const LatentSpace space = latent_space(recipe);
  const DataSection& d = recipe.config.data;
  const auto shape = recipe.latent_shape(d.frames, d.height, d.width);
  std::string fingerprints;
  for (const auto& path : d.shards.empty() ? own_shards(recipe) : list_shards(d.shards)) {
    LatentShard shard(path);
    if (shard.size() == 0) continue;
    shard.check_space(space);
    if (d.shards.empty() && shard.header().fps != d.fps)
      fail_usage("{}: its clips have {} frames a second, not data.fps = {}: run 'encode' again",
                 path.string(), shard.header().fps, d.fps);
    VALIDATE(shard.latent_shape() == std::vector<int64_t>(shape.begin() + 1, shape.end()),
             "{}: its clips are not {} frames of {}x{} (data.frames, data.height, data.width): encode with "
             "these settings",
             path.string(), d.frames, d.height, d.width);
    fingerprints += shard.header().fingerprint + " ";
    set.state_->begins.push_back(set.state_->size);
    set.state_->size += shard.size();
    set.state_->shards.push_back(std::move(shard));
  }
  VALIDATE(set.state_->size > 0,
           "{}: no usable clip (finetuning has nothing to learn from): see the rejects files",
           shard_folder(recipe).string());
  set.state_->fingerprint = fingerprints;
  return set;
}

int64_t LatentSet::size() const {
  return state_->size;
}
const std::string& LatentSet::fingerprint() const {
  return state_->fingerprint;
}

LatentSample LatentSet::sample(int64_t index) const {
  const auto& begins = state_->begins;
  const auto shard = std::upper_bound(begins.begin(), begins.end(), index) - begins.begin() - 1;
  return state_->shards[static_cast<size_t>(shard)].sample(index - begins[static_cast<size_t>(shard)]);
}

}  // namespace surgery
