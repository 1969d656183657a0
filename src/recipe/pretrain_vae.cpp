#include "recipe/pretrain_vae.h"

#include <chrono>
#include <cmath>

#include "base/errors.h"
#include "base/log.h"
#include "data/pixels.h"
#include "data/shapes.h"
#include "recipe/learning_rate.h"
#include "recipe/trained_parameters.h"

namespace surgery {
namespace {

using Clock = std::chrono::steady_clock;

/// Weights [out, in, spatial and time taps...] that pass channel o % in on to o (and average the channels
/// that fold onto one output), spread over `taps` of the kernel.
void pass_through(at::Tensor weight, const std::vector<std::vector<int64_t>>& taps) {
  const int64_t out = weight.size(0), in = weight.size(1);
  for (int64_t o = 0; o < out; ++o) {
    std::vector<int64_t> sources;
    if (out >= in)
      sources.push_back(o % in);
    else
      for (int64_t i = o; i < in; i += out) sources.push_back(i);
    for (const int64_t i : sources) {
      auto kernel = weight[o][i];
      for (const auto& tap : taps) {
        auto cell = kernel;
        for (const int64_t index : tap) cell = cell[index];
        cell += 1.0 / static_cast<double>(taps.size() * sources.size());
      }
    }
  }
}

bool ends_with(const std::string& name, const char* part) {
  return name.ends_with(std::string(part) + ".weight");
}

/// [batch, 3, frames, crop, crop] in [-1, 1]: windows near the outline of moving objects. One clip of four
/// has colours and motion of its own, so that the code is not tied to the palette.
at::Tensor training_crops(const VaePretraining& settings, RandomKey key) {
  std::vector<at::Tensor> clips;
  for (int64_t i = 0; i < settings.batch; ++i) {
    const auto clip_key = key.with(static_cast<uint64_t>(i));
    RandomStream random(clip_key);
    const auto& seen = shapes_combinations(false);
    const auto attributes = seen[static_cast<size_t>(random.below(static_cast<int64_t>(seen.size())))];
    auto scene = shapes_scene(attributes, clip_key.with("scene"), settings.frames, 128, 160);
    if (i % 4 == 3) {
      for (auto& c : scene.colour) c = 255 * random.uniform();
      for (auto& c : scene.background) c = 255 * random.uniform();
      scene.radius *= 0.5 + random.uniform();
      scene.speed_x = 4 * (2 * random.uniform() - 1), scene.speed_y = 4 * (2 * random.uniform() - 1);
    }
    const double reach = 1.3 * scene.radius, middle = static_cast<double>(settings.crop) / 2;
    scene.x = middle + reach * (2 * random.uniform() - 1);
    scene.y = middle + reach * (2 * random.uniform() - 1);
    clips.push_back(frames_to_video(render_scene(scene, settings.frames, settings.crop, settings.crop)));
  }
  return at::cat(clips);
}

}  // namespace

VaeConfig small_vae_config() {
  VaeConfig config;
  config.base_dim = 8;
  config.num_res_blocks = 1;
  return config;
}

Vae initial_vae(const VaeConfig& config, RandomKey key) {
  auto vae = Vae::random(config, key);
  for (auto& [name, tensor] : vae.parameters()) {
    if (name.ends_with(".gamma")) continue;
    if (name.ends_with(".bias")) {
      tensor.zero_();
      if (name.ends_with("coder.conv_in.bias")) tensor[tensor.size(0) - 1] = 2.0;
      continue;
    }
    const bool branch =
        name.find(".conv1.") != std::string::npos || name.find(".to_qkv.") != std::string::npos;
    if (branch) continue;
    if (ends_with(name, ".conv2") || ends_with(name, ".proj")) {
      tensor.mul_(0.1);
      continue;
    }
    tensor.mul_(0.3);
    const bool encoder = name.starts_with("encoder.");
    if (ends_with(name, ".resample.1") && encoder)
      pass_through(tensor, {{0, 0}, {0, 1}, {1, 0}, {1, 1}});  // zeros are padded to the right and below only
    else if (ends_with(name, ".resample.1"))
      pass_through(tensor, {{1, 1}});
    else if (ends_with(name, ".time_conv") && encoder)
      pass_through(tensor, {{1, 0, 0}, {2, 0, 0}});
    else if (ends_with(name, ".time_conv"))
      pass_through(tensor, {{2, 0, 0}});  // 2C outputs of C: both frames copy the current one
    else if (tensor.size(2) == 1)
      pass_through(tensor, {{0, 0, 0}});
    else
      pass_through(tensor, {{2, 1, 1}});
  }
  // The constant channel: nothing of the picture in it.
  for (const char* name : {"encoder.conv_in.weight", "decoder.conv_in.weight"}) {
    auto& weight = vae.parameters().at(name);
    weight[weight.size(0) - 1].mul_(0.1);
  }
  return vae;
}

Vae pretrain_vae(const VaePretraining& settings, RandomKey key, const std::filesystem::path& work,
                 const std::function<bool()>& stop) {
  auto vae = initial_vae(small_vae_config(), key.with("weights"));
  vae.to(settings.device, at::kFloat);
  TrainedParameters trained(vae.parameters(), {.weight_decay = 1e-4, .average_decay = 0.995});
  const auto checkpoint = work / "vae.safetensors";
  if (std::filesystem::exists(checkpoint)) {
    trained.load(checkpoint);
    log_info("VAE: continues at step {} of {} ({})", trained.step_count(), settings.steps,
             checkpoint.string());
  }
  const RateSchedule schedule{.shape = "cosine", .warmup = 100, .floor = 0.02};
  auto reported = Clock::now();
  double sum = 0;
  int64_t summed = 0;
  while (trained.step_count() < settings.steps) {
    const int64_t step = trained.step_count();
    const auto step_key = key.with("vae").with(static_cast<uint64_t>(step));
    const auto video = training_crops(settings, step_key).to(settings.device);
    auto latents = vae.encode_whole(video).mean;
    latents = latents + settings.latent_noise *
                            random_normal(step_key.with("noise"), latents.sizes()).to(settings.device);
    const auto error = vae.decode_whole(latents) - video;
    const auto loss = error.abs().mean() + error.square().mean();
    loss.backward();
    trained.step(scheduled_rate(schedule, step, settings.steps, settings.learning_rate));
    sum += error.detach().square().mean().item<double>(), ++summed;
    if (stop && stop()) {
      trained.save(checkpoint);
      fail(ExitCode::requeue,
           "the VAE's training stopped as asked at step {} (its state is in {}): run the same command again",
           trained.step_count(), checkpoint.string());
    }
    const bool last = trained.step_count() == settings.steps;
    if (trained.step_count() % settings.save_every == 0 || last) trained.save(checkpoint);
    if (trained.step_count() % settings.report_every == 0 || last) {
      const double seconds = std::chrono::duration<double>(Clock::now() - reported).count();
      log_info("VAE: step {} of {}, {:.2f} dB on crops, {:.1f} steps/s", trained.step_count(), settings.steps,
               10 * std::log10(4 * static_cast<double>(summed) / sum), static_cast<double>(summed) / seconds);
      const auto quality = reconstruct_shapes(Vae(vae.config(), trained.averaged()), 8, key.seed);
      log_info("VAE: whole clips {:.2f} dB; {}", quality.psnr, quality.score.summary());
      reported = Clock::now(), sum = 0, summed = 0;
    }
  }
  return Vae(vae.config(), trained.averaged());
}

void measure_latents(Vae& vae, int64_t clips, uint64_t seed) {
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < clips; ++i) {
    const auto clip = shapes_clip(ShapesSplit::train, i, seed);
    rows.push_back(vae.encode(frames_to_video(clip.frames)).mean.cpu().transpose(0, 1).flatten(1));
  }
  const auto all = at::cat(rows, 1).to(at::kDouble);  // [z, positions]
  const auto mean = all.mean(1).contiguous(), deviation = all.std(1).contiguous();
  vae.config().latents_mean.assign(mean.data_ptr<double>(), mean.data_ptr<double>() + mean.numel());
  vae.config().latents_std.assign(deviation.data_ptr<double>(),
                                  deviation.data_ptr<double>() + deviation.numel());
}

ReconstructionQuality reconstruct_shapes(const Vae& vae, int64_t clips, uint64_t seed) {
  ReconstructionQuality quality;
  for (int64_t i = 0; i < clips; ++i) {
    const auto clip = shapes_clip(ShapesSplit::evaluation, i, seed);
    const auto video = frames_to_video(clip.frames);
    const auto again = vae.decode(vae.encode(video).mean).cpu();
    quality.psnr +=
        10 * std::log10(4 / (again - video).square().mean().item<double>()) / static_cast<double>(clips);
    quality.score.add(clip.attributes, read_shapes(video_to_frames(again)));
  }
  return quality;
}

}  // namespace surgery
