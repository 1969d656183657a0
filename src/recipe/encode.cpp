// The finetuning set: video files and captions, through VAE and text encoder, to latent shards.
#include "data/encode.h"

#include <map>

#include "base/errors.h"
#include "base/log.h"
#include "data/shapes_set.h"
#include "data/video_tars.h"
#include "data/web_dataset.h"
#include "recipe/artifact.h"
#include "recipe/clip_set.h"
#include "recipe/data_section.h"
#include "recipe/encode_web_dataset.h"
#include "recipe/latent_set.h"
#include "recipe/recipe.h"
#include "recipe/shard_job.h"
#include "recipe/vae_settings.h"

namespace surgery {
namespace {

// The annotation listing; the shapes set is written out as mp4 first, and videos in tar shards are unpacked,
// and then read like any other.
std::filesystem::path listing(Recipe& recipe, std::vector<RejectedRecord>& lost) {
  const DataSection& d = recipe.config.data;
  const auto mine = [&](int64_t i) { return i % recipe.session.size() == recipe.session.rank(); };
  const bool first = recipe.session.rank() == 0;
  if (is_web_dataset(d.videos)) {
    // Named by the place: another set is unpacked beside this one.
    const auto folder = recipe.run.data() / "clips" / ("tars-" + make_fingerprint({d.videos}));
    recipe.make_folder(folder);
    const auto path = unpack_video_tars(d.videos, folder, mine, first, lost);
    recipe.session.world().barrier();
    return path;
  }
  if (!d.videos.starts_with("shapes:")) return d.videos;
  const auto split = parse_shapes_split(d.videos);
  if (!split)
    fail_usage("data.videos: '{}' is none of shapes:train, shapes:distill, shapes:evaluation", d.videos);
  // The files are reused by name, so everything that they depend on stands in the folder's.
  const auto folder = recipe.run.data() / "clips" /
                      fmt::format("{}-seed{}-{}x{}x{}-{}fps", to_string(*split), recipe.config.run.seed + 1,
                                  d.frames, d.height, d.width, d.fps);
  recipe.make_folder(folder);
  const auto path =
      write_shapes_set(folder, *split, d.count > 0 ? d.count : shapes_split_size(*split),
                       recipe.config.run.seed + 1, d.frames, d.height, d.width, d.fps, mine, first);
  recipe.session.world().barrier();
  return path;
}

/// Makes the missing shards of clips; how many a stop left.
int64_t encode_shards(Recipe& recipe, const ShardJob& job, const std::vector<int64_t>& missing) {
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
  return left;
}

}  // namespace

bool make_latents(Recipe& recipe) {
  const DataSection& d = recipe.config.data;
  if (!encodes_own(d)) return true;  // given, not made
  if (holds_latents(d.videos)) return make_web_latents(recipe);
  StageTimer timer(recipe, "encode");
  for (const ClipShape& shape : clip_shapes(d)) recipe.latent_shape(shape.frames, shape.height, shape.width);
  const EncodeOptions options{.folder = recipe.run.latents(),
                              .source = d.videos,
                              .settings = vae_settings_text(recipe.config.model) +
                                          (recipe.text_precision() == at::kFloat ? "" : " text bf16")};
  std::vector<RejectedRecord> lost;
  const auto videos = listing(recipe, lost);
  recipe.make_folder(options.folder);
  auto set = choose_clips(recipe, videos, lost, options.folder / (options.name + ".rejects.txt"));
  if (!set) {
    timer.done(0, 0, 1);
    return false;
  }
  const ShardJob job{.stage = "encode",
                     .folder = options.folder,
                     .index = std::move(set->index),
                     .plans = plan_shards(std::move(set->clips), latent_space(recipe), options)};
  const std::vector<int64_t> missing = missing_shards(recipe, job);
  const int64_t left = encode_shards(recipe, job, missing);
  timer.done(std::ssize(missing) - left, std::ssize(job.plans) - std::ssize(missing), left);
  return left == 0;
}

}  // namespace surgery
