// Stages 7 and 8: the finished model in the diffusers layout, and clips of every variant from the same noise.
#include "wan/generate.h"

#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/log.h"
#include "data/pixels.h"
#include "data/video.h"
#include "parallel/coordinator.h"
#include "recipe/artifact.h"
#include "recipe/finetune_checkpoint.h"
#include "recipe/model_parts.h"
#include "recipe/sample_set.h"
#include "recipe/sampling.h"
#include "recipe/text_cache.h"
#include "recipe/trajectory_set.h"
#include "recipe/vae_settings.h"
#include "storage/atomic_file.h"
#include "wan/diffusers_loader.h"

namespace surgery {
namespace {

/// What is made of a clip: its sample file, and the mp4 that shows it.
enum class ClipFiles { latents_and_video, latents };

/// The initial noise of all clips [clips, 16, T, H, W], fp32, mapped; undefined where none is given.
at::Tensor given_noise(const Recipe& recipe, int64_t clips) {
  const GenerateSection& g = recipe.config.generate;
  if (g.noise.empty()) return {};
  const at::Tensor noise = TensorStore::open_file(g.noise).get("noise");
  std::vector<int64_t> shape = recipe.latent_shape(g.frames, g.height, g.width);
  shape[0] = noise.dim() == 5 ? std::max(noise.size(0), clips) : clips;
  VALIDATE(noise.sizes() == at::IntArrayRef(shape) && noise.is_floating_point(),
           "generate.noise = {}: noise is {} [{}], and the clips need floats [{}], one after the other by "
           "prompt and "
           "sample",
           g.noise, at::toString(noise.scalar_type()), fmt::join(noise.sizes(), ", "),
           fmt::join(shape, ", "));
  VALIDATE(at::isfinite(noise).all().item<bool>(), "generate.noise = {}: holds numbers that are not finite",
           g.noise);
  return noise;
}

Sample generate_sample(Recipe& recipe, const Transformer& model, const Prompt& prompt, int64_t index,
                       int64_t repeat, const at::Tensor& given) {
  const GenerateSection& g = recipe.config.generate;
  const auto shape = recipe.latent_shape(g.frames, g.height, g.width);
  // The key names prompt and repeat, not the model: every variant starts from the same noise.
  const RandomKey key = recipe.key("generate").with(static_cast<uint64_t>(index));
  const SamplingOptions options = sampling_options(g);
  const auto noise = [&](int64_t step) {
    return random_normal(key.with("ancestral").with(static_cast<uint64_t>(step)), shape).to(recipe.device);
  };
  const at::Tensor initial = given.defined() ? given.slice(0, index, index + 1).to(at::kFloat)
                                             : random_normal(key.with("initial"), shape);
  const at::Tensor latents = generate_latents(
      model, pad_text(text_rows(recipe, prompt.text), recipe.text_length()).to(recipe.device),
      pad_text(text_rows(recipe, recipe.negative_prompt(g.negative_prompt)), recipe.text_length())
          .to(recipe.device),
      options, initial.to(recipe.device), noise,
      [&](const SamplingStep&) { recipe.check_stop(fmt::format("clip {}", index)); });
  if (!at::isfinite(latents).all().item<bool>())
    fail_data("clip {} ('{}') is not finite (the model or the guidance is unusable): check the model", index,
              prompt.text);
  Sample sample;
  sample.name = prompt.name;
  sample.prompt = prompt.text;
  sample.index = repeat;
  sample.seed = key.stream;
  sample.latents = latents[0].to(at::kCPU, at::kFloat).contiguous();
  return sample;
}

/// Of the mp4 of a sample: how the VAE decodes does not change the sample.
std::string video_fingerprint(const Recipe& recipe, const std::string& sample) {
  return sample + vae_settings_text(recipe.config.model);
}

void write_video(Recipe& recipe, const std::filesystem::path& path, const Sample& sample) {
  const at::NoGradGuard no_grad;
  const Vae& vae = recipe.vae();
  const at::Tensor video = vae.decode(vae.denormalize(sample.latents.unsqueeze(0).to(recipe.device)));
  WriteSpec spec;
  spec.fps = kVideoFps;
  spec.comment = video_fingerprint(recipe, sample.fingerprint);
  write_mp4(path, video_to_frames(video.to(at::kCPU)), spec);
}

/// Whether the file shows the clip of this fingerprint: videos/ may still hold another model's.
bool shows(const std::filesystem::path& path, const std::string& fingerprint) {
  if (!std::filesystem::exists(path)) return false;
  try {
    return probe_video(path).comment == fingerprint;
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    return false;
  }
}

/// Makes the clips of a variant that are missing; of those for which `wanted` holds, where it is not empty.
bool make_variant(Recipe& recipe, const Selection& selection, const std::string& variant, ClipFiles files,
                  const std::vector<bool>& wanted) {
  StageTimer timer(recipe, "generate " + variant);
  const GenerateSection& g = recipe.config.generate;
  const auto prompts = recipe_prompts(g.prompts, g.count, "generate.prompts");
  const int64_t total = static_cast<int64_t>(prompts.size()) * g.samples;
  recipe.make_folder(recipe.run.samples(variant));
  const auto prompt_of = [&](int64_t i) -> const Prompt& {
    return prompts[static_cast<size_t>(i / g.samples)];
  };
  const auto names = video_names(prompts, g.samples);
  const auto video_path = [&](int64_t i) {
    return video_folder(recipe.config, variant) / names[static_cast<size_t>(i)];
  };
  const at::Tensor noise = given_noise(recipe, total);
  const std::vector<std::string> fingerprints = sample_fingerprints(recipe, selection, variant, prompts);
  if (files == ClipFiles::latents_and_video) recipe.make_folder(video_folder(recipe.config, variant));
  if (files == ClipFiles::latents_and_video && !video_supported()) {
    log_info("generate: built without the video back-end: latents only, no mp4");
    files = ClipFiles::latents;
  }
  const bool videos = files == ClipFiles::latents_and_video;
  const std::vector<int64_t> missing = missing_units(recipe, total, [&](int64_t i) {
    if (!wanted.empty() && !wanted[static_cast<size_t>(i)]) return ArtifactState::present;
    const ArtifactState state =
        check_artifact(recipe.run, sample_path(recipe.run, variant, i), fingerprints[static_cast<size_t>(i)],
                       [](const auto& path) { return read_sample(path).fingerprint; });
    const bool shown =
        !videos || shows(video_path(i), video_fingerprint(recipe, fingerprints[static_cast<size_t>(i)]));
    return shown ? state : ArtifactState::missing;
  });
  const std::vector<int64_t> unsampled = missing_units(recipe, std::ssize(missing), [&](int64_t u) {
    const auto path = sample_path(recipe.run, variant, missing[static_cast<size_t>(u)]);
    return std::filesystem::exists(path) ? ArtifactState::present : ArtifactState::missing;
  });
  std::vector<std::string> texts{recipe.negative_prompt(g.negative_prompt)};
  for (const int64_t u : unsampled) texts.push_back(prompt_of(missing[static_cast<size_t>(u)]).text);
  if (!unsampled.empty() && !prepare_text(recipe, texts)) {
    timer.done(0, total - std::ssize(missing), std::ssize(missing));
    return false;
  }
  std::vector<WorkUnit> units;
  for (const int64_t i : missing) units.push_back({fmt::format("{} clip {}", variant, i), 1});
  std::optional<Transformer> model;
  const std::vector<size_t> left = run_units(
      recipe.session, units,
      [&](size_t u) {
        const int64_t i = missing[u];
        const auto path = sample_path(recipe.run, variant, i);
        Sample sample;
        if (std::filesystem::exists(path)) {
          sample = read_sample(path);  // only its mp4 is missing or another model's
        } else {
          if (!model) model = variant_model(recipe, variant, selection, recipe.precision());
          sample = generate_sample(recipe, *model, prompt_of(i), i, i % g.samples, noise);
          sample.fingerprint = fingerprints[static_cast<size_t>(i)];
          write_sample(path, sample);
        }
        if (videos) write_video(recipe, video_path(i), sample);
      },
      [&] { return recipe.stop_requested(); }, recipe.coordinator());
  timer.done(std::ssize(missing) - std::ssize(left), total - std::ssize(missing), std::ssize(left));
  return left.empty();
}

/// The student, and the teacher's other parts, so that the folder stands alone.
void write_model(const Recipe& recipe, const Transformer& student, const std::filesystem::path& folder) {
  student.save(folder / "transformer", at::kBFloat16);
  write_other_parts(recipe.config.model, folder);
}

}  // namespace

void check_given_noise(const Recipe& recipe) {
  const GenerateSection& g = recipe.config.generate;
  given_noise(recipe, std::ssize(recipe_prompts(g.prompts, g.count, "generate.prompts")) * g.samples);
}

bool make_samples(Recipe& recipe) {
  const Selection selection = require_selection(recipe);
  for (const std::string& variant : sample_variants(recipe.config))
    if (!make_variant(recipe, selection, variant, ClipFiles::latents_and_video, {})) return false;
  return true;
}

bool make_teacher_samples(Recipe& recipe, const std::vector<bool>& wanted) {
  return make_variant(recipe, {}, "teacher", ClipFiles::latents, wanted);
}

bool make_model(Recipe& recipe) {
  StageTimer timer(recipe, "model");
  const Selection selection = require_selection(recipe);
  const std::string variant = sample_variants(recipe.config).back();
  std::string fingerprint = student_fingerprint(recipe, selection);
  for (const auto& file : pipeline_files(recipe.config.model)) fingerprint += hash_file(file);
  if (const auto iteration = variant_iteration(variant))
    fingerprint += finetune_checkpoint_hash(recipe.run.finetune(), *iteration);
  fingerprint += recipe.vae_hash() + recipe.text_hash() + hash_bytes(kDiffusersLoader);
  int64_t made = 0;
  if (recipe.session.rank() == 0) {
    const auto stamp = recipe.run.model_stamp();
    const std::string wanted =
        nlohmann::json{{"fingerprint", fingerprint}, {"variant", variant}}.dump() + "\n";
    if (!std::filesystem::exists(stamp) || read_file(stamp) != wanted) {
      made = 1;
      AtomicFolder folder(recipe.run.model());
      write_model(recipe, variant_model(recipe, variant, selection, at::kFloat), folder.temporary());
      write_file(folder.temporary() / stamp.filename(), wanted);
      folder.commit();
    }
  }
  recipe.release_teacher();  // generation embeds its prompts first
  recipe.session.world().barrier();
  timer.done(made, 1 - made);
  return true;
}

}  // namespace surgery
