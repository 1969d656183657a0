#include "recipe/pretrain_settings.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "storage/strict_json.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Options under their names on the command line, the rest under like ones.
Json as_json(const Pretraining& settings) {
  const VaePretraining& v = settings.vae;
  const PretrainTransformerOptions& t = settings.transformer;
  return {{"run.seed", t.seed},
          {"vae-steps", v.steps},
          {"clips", t.clips},
          {"image-steps", t.image_steps},
          {"video-steps", t.video_steps},
          {"text-dim", settings.text_dim},
          {"text-length", settings.text_length},
          {"vae-batch", v.batch},
          {"vae-frames", v.frames},
          {"vae-crop", v.crop},
          {"vae-learning-rate", v.learning_rate},
          {"vae-latent-noise", v.latent_noise},
          {"latent-clips", settings.latent_clips},
          {"blocks", t.blocks},
          {"heads", t.heads},
          {"head-dim", t.head_dim},
          {"ffn-dim", t.ffn_dim},
          {"frames", t.frames},
          {"height", t.height},
          {"width", t.width},
          {"image-batch", t.image_batch},
          {"video-batch", t.video_batch},
          {"warmup", t.warmup},
          {"learning-rate", t.learning_rate},
          {"decay-share", t.decay_share},
          {"muon", t.muon},
          {"ema", t.ema},
          {"gradient-clip", t.gradient_clip},
          {"weight-decay", t.weight_decay},
          {"shift", t.shift},
          {"text-share", t.text_share},
          {"text-shift", t.text_shift},
          {"text-dropout", t.text_dropout}};
}

/// "vae-steps = 3000 there, 10 asked for", one a setting; those that one side alone knows are of another
/// version of this program.
std::vector<std::string> differences(const Json& kept, const Json& asked) {
  const auto value = [](const Json& settings, const std::string& name) {
    return settings.contains(name) ? settings[name].dump() : "unknown";
  };
  std::vector<std::string> all;
  for (const auto& [name, wanted] : asked.items())
    if (!kept.contains(name) || kept[name] != wanted)
      all.push_back(fmt::format("{} = {} there, {} asked for", name, value(kept, name), wanted.dump()));
  for (const auto& [name, found] : kept.items())
    if (!asked.contains(name)) all.push_back(fmt::format("{} = {} there, unknown here", name, found.dump()));
  return all;
}

}  // namespace

void keep_settings(const Pretraining& settings, const fs::path& work) {
  const fs::path file = work / "settings.json";
  const Json asked = as_json(settings);
  if (fs::exists(file)) {
    const Json kept = read_json_file(file.string());
    VALIDATE(kept.is_object(), "{}: not a table of settings (damaged): give another work folder",
             file.string());
    if (const auto all = differences(kept, asked); !all.empty())
      fail_usage(
          "{}: a teacher is being made here with other settings ({}): ask for the same ones, or give another "
          "--work",
          work.string(), fmt::join(all, "; "));
    return;
  }
  for (const char* state : {"tokenizer", "text_encoder", "vae", "vae.safetensors", "latents.safetensors",
                            "transformer.safetensors"})
    if (fs::exists(work / state))
      fail_usage(
          "{}: {} is there, but not the settings.json it was begun with (going on with other settings would "
          "spoil it): give another --work",
          work.string(), state);
  write_file(file, asked.dump(1) + "\n");
}

}  // namespace surgery
