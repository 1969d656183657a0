#include "recipe/pretrain.h"

#include <ATen/Parallel.h>
#include <torch/cuda.h>

#include <algorithm>

#include "app/command.h"
#include "base/signals.h"

namespace surgery {
namespace {

ExitCode run(Context& context) {
  if (context.session.rank() != 0) return ExitCode::done;  // one process trains: it is small
  const auto& options = context.options;
  Pretraining settings;
  settings.vae.steps = options.integer("vae-steps", settings.vae.steps);
  auto& transformer = settings.transformer;
  transformer.seed = context.config.run.seed;
  transformer.clips = options.integer("clips", transformer.clips);
  transformer.image_steps = options.integer("image-steps", transformer.image_steps);
  transformer.video_steps = options.integer("video-steps", transformer.video_steps);
  settings.score_clips = options.integer("score-clips", settings.score_clips);
  settings.vae.save_every = transformer.save_every = options.integer("save-every", transformer.save_every);
  if (settings.vae.steps < 1 || transformer.clips < 1 || transformer.image_steps < 0 ||
      transformer.video_steps < 0 || settings.score_clips < 0 || transformer.save_every < 1)
    fail_usage("pretrain was asked for a negative number of steps or clips: give positive ones");
  // No more clips than the training itself sees, or the user wants to wait for.
  settings.latent_clips = std::min(settings.latent_clips, transformer.clips);
  transformer.evaluate_clips = std::min(transformer.evaluate_clips, settings.score_clips);
  const std::string& wanted = context.config.model.device;
  const bool gpu = wanted != "cpu" && torch::cuda::is_available();
  if (wanted == "cuda" && !gpu)
    fail_usage(
        "model.device: cuda asked for, but LibTorch finds no CUDA device: use cpu, or a build with CUDA");
  const at::Device device(gpu ? at::kCUDA : at::kCPU);
  settings.vae.device = device;
  const int64_t threads = context.config.run.threads > 0 ? context.config.run.threads : at::get_num_threads();
  // Samples side by side rather than operators of two threads: the largest power of two that the batches
  // allow.
  while (!gpu && 2 * transformer.workers <= std::min<int64_t>(threads, 4)) transformer.workers *= 2;
  at::set_num_threads(transformer.workers > 1 ? 1 : static_cast<int>(threads));
  const std::filesystem::path output = options.text("output");
  pretrain_teacher(settings, output, options.text("work", output.string() + ".work"), device, stop_requested);
  return ExitCode::done;
}

}  // namespace

Command pretrain_command() {
  return {"pretrain",
          "train the small shapes teacher from nothing, or continue",
          run,
          CommandKind::tool,
          {{"output", "DIR", "where the model goes, in the diffusers layout", true},
           {"work", "DIR", "checkpoints and latents to continue from [DIR.work]"},
           {"vae-steps", "N", "updates of the VAE"},
           {"clips", "N", "clips in the latent cache"},
           {"image-steps", "N", "updates of the transformer on pictures"},
           {"video-steps", "N", "updates of the transformer on clips"},
           {"save-every", "N", "updates between two commits of the state [100]"},
           {"score-clips", "N", "clips of the closing score, 0 = none, while training neither [128]"}},
          "",
          StopSignals::commit};
}

}  // namespace surgery
