#include "data/encode.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "base/errors.h"
#include "data/pixels.h"
#include "storage/atomic_file.h"

namespace surgery {

namespace {

/// Length-prefixed, so that no two lists of parts join to the same bytes.
std::string fingerprint_of(const std::vector<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) joined += fmt::format("{}:{}", part.size(), part);
  return hash_bytes(joined);
}

using Shape = std::tuple<int64_t, int64_t, int64_t, double>;  // frames, height, width, fps
Shape shape_of(const ClipSpec& spec) {
  return {spec.frames, spec.height, spec.width, spec.fps};
}

std::string fingerprint_of(const ShardHeader& header, const std::vector<EncodeClip>& clips,
                           const std::string& settings) {
  const LatentSpace& space = header.space;
  std::vector<std::string> parts{
      "latents-1",
      space.vae_hash,
      space.text_hash,
      fmt::format("{} {}", space.text_length, space.text_dim),
      fmt::format("{} {}", fmt::join(space.latents_mean, " "), fmt::join(space.latents_std, " ")),
      fmt::format("{} {} {} {}", header.frames, header.height, header.width, header.fps)};
  if (!settings.empty()) parts.push_back(settings);
  for (const EncodeClip& clip : clips) {
    parts.push_back(clip.id);
    parts.push_back(clip.caption);
    parts.push_back(clip.fingerprint);
  }
  return fingerprint_of(parts);
}

std::string describe_window(const ClipSpec& spec) {
  std::string text = fmt::format("{} {} {} {}", spec.start_seconds, static_cast<int>(spec.short_clip),
                                 static_cast<int>(spec.small_source), static_cast<int>(spec.slow_source));
  if (spec.cut) text += fmt::format(" cut {} {}", spec.cut->begin, spec.cut->end);
  if (spec.crop)
    text += fmt::format(" crop {} {} {} {}", spec.crop->x0, spec.crop->x1, spec.crop->y0, spec.crop->y1);
  return text;
}

LatentSample encode_one(const EncodeClip& clip, const Vae& vae, const EmbedPrompt& embed) {
  const Clip loaded = clip.load();
  const at::Tensor& pixels = loaded.pixels;
  VALIDATE(pixels.dim() == 4 && pixels.size(0) == clip.spec.frames && pixels.size(1) == clip.spec.height &&
               pixels.size(2) == clip.spec.width,
           "frames have shape {}, expected {}x{}x{}x3", fmt::join(pixels.sizes(), "x"), clip.spec.frames,
           clip.spec.height, clip.spec.width);
  const at::NoGradGuard no_grad;
  const at::Tensor video = frames_to_video(pixels.to(vae.parameters().begin()->second.device()));
  const at::Tensor latents = vae.normalize(vae.encode(video).mean.to(at::kFloat));
  LatentSample sample;
  sample.latents = latents[0];
  sample.text = embed(clip.caption);
  sample.prompt = clip.caption;
  sample.id = clip.id;
  sample.source_fps = loaded.source.fps;
  sample.start_seconds = loaded.start_seconds;
  sample.source_height = loaded.source.height;
  sample.source_width = loaded.source.width;
  sample.crop = loaded.crop;
  return sample;
}

void check_filters(const std::filesystem::path& file, const VideoInfo& info, const ClipSpec& spec,
                   const ClipRules& rules, std::optional<double> aesthetic) {
  if (!rules.filters()) return;
  ClipRules of_bucket = rules;
  of_bucket.buckets = {{spec.frames, spec.height, spec.width}};
  const ClipVerdict verdict = judge(decoded_source(info, spec.cut, spec.crop, aesthetic), of_bucket);
  VALIDATE(verdict.kept(), "{}: {}", file.string(), verdict.reason);
}

}  // namespace

void write_rejects(const std::filesystem::path& shard, const std::vector<RejectedRecord>& rejected) {
  if (rejected.empty()) {
    std::error_code ignored;
    std::filesystem::remove(shard_rejects(shard), ignored);  // of an earlier attempt
    return;
  }
  std::string lines;
  for (const RejectedRecord& record : rejected) lines += reject_line(record);
  write_file(shard_rejects(shard), lines);
}

LatentSpace latent_space(const VaeConfig& config, const std::string& vae_hash, const std::string& text_hash,
                         int64_t text_length, int64_t text_dim) {
  LatentSpace space{vae_hash, text_hash, config.latents_mean, config.latents_std, text_length, text_dim};
  if (space.latents_mean.empty()) space.latents_mean.assign(static_cast<size_t>(config.z_dim), 0.0);
  if (space.latents_std.empty()) space.latents_std.assign(static_cast<size_t>(config.z_dim), 1.0);
  return space;
}

EncodeClip encode_clip(const ManifestRecord& record, const std::shared_ptr<const ClipRules>& rules,
                       const ClipVerdict& verdict, RandomKey captions) {
  const std::filesystem::path file = find_video(record.path);
  std::error_code code;
  const uintmax_t bytes = std::filesystem::file_size(file, code);
  EncodeClip clip;
  clip.id = record.id;
  clip.caption = record.caption(captions);
  clip.spec = clip_spec(record, *rules, verdict);
  clip.load = [file, spec = clip.spec, rules, aesthetic = record.aesthetic] {
    std::error_code error;
    // The annotation is at fault, and the other clips are as good as before.
    VALIDATE(std::filesystem::exists(file, error), "{}: no such video file: check the annotation",
             file.string());
    Clip loaded = load_clip(file, spec);
    check_filters(file, loaded.source, spec, *rules, aesthetic);
    return loaded;
  };
  clip.fingerprint = fmt::format("{} bytes, {}", code ? 0 : bytes, describe_window(clip.spec));
  if (rules->filters()) clip.fingerprint += ", " + rules->text();
  return clip;
}

std::vector<ShardPlan> plan_shards(std::vector<EncodeClip> clips, const LatentSpace& space,
                                   const EncodeOptions& options) {
  if (options.samples_per_shard < 1)
    fail_usage("{} samples a shard were asked for: give 1 or more", options.samples_per_shard);
  VALIDATE(!clips.empty(), "no clip to encode: give a listing with at least one");
  std::vector<std::pair<Shape, std::vector<EncodeClip>>> groups;  // in order of first appearance
  for (EncodeClip& clip : clips) {
    const Shape shape = shape_of(clip.spec);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == shape; });
    if (group == groups.end()) group = groups.insert(groups.end(), {shape, {}});
    group->second.push_back(std::move(clip));
  }
  std::vector<ShardPlan> plans;
  const auto size = options.samples_per_shard;
  for (auto& [shape, members] : groups)
    for (int64_t begin = 0; begin < std::ssize(members); begin += size) {
      ShardPlan plan;
      const auto first = std::make_move_iterator(members.begin() + begin);
      plan.clips.assign(first, first + std::min(size, std::ssize(members) - begin));
      std::tie(plan.header.frames, plan.header.height, plan.header.width, plan.header.fps) = shape;
      plan.header.space = space;
      plan.header.source = options.source;
      plan.header.fingerprint = fingerprint_of(plan.header, plan.clips, options.settings);
      plans.push_back(std::move(plan));
    }
  for (size_t i = 0; i < plans.size(); ++i)
    plans[i].path = options.folder /
                    shard_name(options.name, static_cast<int64_t>(i), static_cast<int64_t>(plans.size()));
  return plans;
}

bool shard_complete(const ShardPlan& plan) {
  std::error_code code;
  if (!std::filesystem::exists(plan.path, code)) return false;
  try {
    const LatentShard shard(plan.path, LatentShard::Verify::full);
    if (shard.header().fingerprint == plan.header.fingerprint) return true;
    set_aside(plan.path, "made from other clips, captions or models");
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    set_aside(plan.path, error.what());
  }
  return false;
}

EncodeResult encode_shard(const ShardPlan& plan, const Vae& vae, const EmbedPrompt& embed,
                          const std::function<bool()>& stop) {
  EncodeResult result;
  if (shard_complete(plan)) {
    result.status = EncodeStatus::reused;
    result.samples = LatentShard(plan.path).size();
    return result;
  }
  std::error_code code;
  std::filesystem::create_directories(plan.path.parent_path(), code);
  if (code) fail_io("{}: cannot make the folder ({})", plan.path.parent_path().string(), code.message());
  LatentShardWriter writer(plan.path, plan.header);
  for (const EncodeClip& clip : plan.clips) {
    if (stop && stop()) {
      result.status = EncodeStatus::stopped;
      return result;
    }
    try {
      writer.add(encode_one(clip, vae, embed));
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      result.rejected.push_back({clip.id, error.what()});
    }
  }
  // First the rejects: a committed shard is done, and nobody would write them later.
  write_rejects(plan.path, result.rejected);
  writer.commit();
  result.samples = writer.size();
  return result;
}

}  // namespace surgery
