// A training set out of the teacher: its clips as latent shards, which data.shards of another run names.
#include <algorithm>

#include "base/errors.h"
#include "data/latent_shard.h"
#include "recipe/artifact.h"
#include "recipe/latent_set.h"
#include "recipe/sample_set.h"
#include "recipe/shard_job.h"
#include "recipe/text_cache.h"
#include "recipe/trajectory_set.h"

namespace surgery {
namespace {

constexpr int64_t kSamplesPerShard = 64;

/// One shard of clips [begin, end): what its clips depend on is in their fingerprints.
struct Piece {
  int64_t begin, end;
};

ShardJob plan_job(Recipe& recipe, const std::filesystem::path& folder, const std::vector<std::string>& clips,
                  std::vector<Piece>& pieces) {
  const GenerateSection& g = recipe.config.generate;
  ShardJob job{.stage = "generate",
               .folder = folder,
               .index = {.source = "teacher's clips of " + g.prompts, .count = g.count},
               .plans = {}};
  const int64_t total = std::ssize(clips), count = (total + kSamplesPerShard - 1) / kSamplesPerShard;
  const LatentSpace space = latent_space(recipe);
  for (int64_t i = 0; i < count; ++i) {
    const Piece piece{i * kSamplesPerShard, std::min(total, (i + 1) * kSamplesPerShard)};
    std::vector<std::string> parts(clips.begin() + piece.begin, clips.begin() + piece.end);
    parts.push_back("synthetic-1");
    ShardPlan plan;
    plan.path = folder / shard_name("synthetic", i, count);
    plan.header = {.space = space,
                   .frames = g.frames,
                   .height = g.height,
                   .width = g.width,
                   .fps = kVideoFps,
                   .source = job.index.source,
                   .fingerprint = make_fingerprint(parts)};
    job.plans.push_back(std::move(plan));
    pieces.push_back(piece);
  }
  return job;
}

/// Whoever trains on a folder reads all of its shards; this set's cost too much to be set aside for others.
void refuse_others(const ShardJob& job) {
  for (const auto& other : other_shards(job))
    fail_usage(
        "{}: is no shard of this set (a training run would read both): choose another --output, or move it "
        "away",
        other.string());
}

std::vector<int64_t> missing_pieces(Recipe& recipe, const ShardJob& job) {
  if (recipe.session.rank() == 0) refuse_others(job);
  return missing_units(recipe, std::ssize(job.plans), [&](int64_t i) {
    const ShardPlan& plan = job.plans[static_cast<size_t>(i)];
    return check_artifact(recipe.run, plan.path, plan.header.fingerprint, verified_fingerprint);
  });
}

EncodeResult pack(Recipe& recipe, const ShardPlan& plan, Piece piece) {
  EncodeResult result;
  LatentShardWriter writer(plan.path, plan.header);
  for (int64_t i = piece.begin; i < piece.end; ++i) {
    recipe.check_stop(plan.path.filename().string());
    const Sample clip = read_sample(sample_path(recipe.run, "teacher", i));
    LatentSample sample;
    sample.latents = clip.latents;
    sample.text = text_rows(recipe, clip.prompt);
    sample.prompt = clip.prompt;
    sample.id = fmt::format("sample-{:06d}", i);
    sample.source_fps = plan.header.fps;
    sample.source_height = plan.header.height;
    sample.source_width = plan.header.width;
    sample.crop = {0, plan.header.width, 0, plan.header.height};
    writer.add(sample);
  }
  writer.commit();
  result.samples = writer.size();
  return result;
}

}  // namespace

bool make_synthetic_set(Recipe& recipe, const std::filesystem::path& output) {
  const GenerateSection& g = recipe.config.generate;
  const auto prompts = recipe_prompts(g.prompts, g.count, "generate.prompts");
  std::vector<Piece> pieces;
  const ShardJob job = plan_job(recipe, output.empty() ? recipe.run.synthetic() : output,
                                sample_fingerprints(recipe, {}, "teacher", prompts), pieces);
  recipe.make_folder(job.folder);
  const std::vector<int64_t> missing = missing_pieces(recipe, job);
  std::vector<std::string> texts;
  std::vector<bool> wanted(prompts.size() * static_cast<size_t>(g.samples), false);
  for (const int64_t i : missing) {
    const Piece piece = pieces[static_cast<size_t>(i)];
    for (int64_t clip = piece.begin; clip < piece.end; ++clip) {
      wanted[static_cast<size_t>(clip)] = true;
      texts.push_back(prompts[static_cast<size_t>(clip / g.samples)].text);
    }
  }
  if (!missing.empty() && !make_teacher_samples(recipe, wanted)) return false;
  StageTimer timer(recipe, "generate shards");
  int64_t left = std::ssize(missing);
  if (prepare_text(recipe, texts))
    left = make_shards(recipe, job, missing, [&](size_t i) { return pack(recipe, job.plans[i], pieces[i]); });
  timer.done(std::ssize(missing) - left, std::ssize(job.plans) - std::ssize(missing), left);
  return left == 0;
}

}  // namespace surgery
