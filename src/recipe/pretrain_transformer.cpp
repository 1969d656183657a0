#include "recipe/pretrain_transformer.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <future>

#include "base/clock.h"
#include "base/errors.h"
#include "base/log.h"
#include "data/pixels.h"
#include "recipe/trained_parameters.h"
#include "storage/safetensors.h"
#include "storage/tensor_store.h"
#include "wan/flow.h"

namespace surgery {
namespace {

double learning_rate(const PretrainTransformerOptions& o, int64_t step) {
  const double total = static_cast<double>(o.image_steps + o.video_steps);
  const double decay = o.decay_share * static_cast<double>(o.video_steps);
  const double warm =
      std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(std::max<int64_t>(1, o.warmup)));
  const double fall = decay > 0 ? std::min(1.0, (total - static_cast<double>(step)) / decay) : 1.0;
  return o.learning_rate * warm * std::max(fall, 0.0);
}

struct Batch {
  at::Tensor input, timestep, text, target;
};

/// Mean loss and its gradients; each of `workers` threads has its own graph over an equal share of the batch.
std::pair<double, std::vector<at::Tensor>> batch_gradients(const Transformer& model, const Batch& batch,
                                                           const std::vector<at::Tensor>& values,
                                                           int64_t workers) {
  const int64_t share = div_exact(batch.input.size(0), workers);
  std::vector<std::vector<at::Tensor>> gradients(static_cast<size_t>(workers));
  std::vector<double> losses(static_cast<size_t>(workers));
  const auto work = [&](int64_t worker) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, worker * share, share); };
    const auto loss = at::mse_loss(model.forward(part(batch.input), part(batch.timestep), part(batch.text)),
                                   part(batch.target)) /
                      static_cast<double>(workers);
    gradients[static_cast<size_t>(worker)] = torch::autograd::grad({loss}, values);
    losses[static_cast<size_t>(worker)] = loss.item<double>();
  };
  std::vector<std::future<void>> others;
  for (int64_t worker = 1; worker < workers; ++worker)
    others.push_back(std::async(std::launch::async, [&work, worker] {
      at::set_num_threads(1);
      work(worker);
    }));
  work(0);
  for (auto& other : others) other.get();
  for (size_t worker = 1; worker < gradients.size(); ++worker) {
    at::_foreach_add_(gradients[0], gradients[worker]);
    losses[0] += losses[worker];
  }
  return {losses[0], std::move(gradients[0])};
}

class Trainer {
 public:
  Trainer(const at::Tensor& latents, const CaptionEmbedding& embed, const PretrainTransformerOptions& options,
          at::Device device)
      : latents_(latents), o_(options), device_(device), empty_(embed("")) {
    for (const bool held_out : {false, true})
      for (const ShapeAttributes& a : shapes_combinations(held_out)) {
        const std::string caption = shapes_caption(a);
        text_.emplace(caption, embed(caption));
      }
  }

  // Sample, noise level, noise and dropout are functions of the step alone.
  Batch make(int64_t step) const {
    const bool image = step < o_.image_steps;
    const int64_t size = image ? o_.image_batch : o_.video_batch;
    const RandomKey key = RandomKey{o_.seed, 0}.with("pretrain").with(static_cast<uint64_t>(step));
    RandomStream draws(key.with("draws"));
    std::vector<at::Tensor> clean, texts;
    at::Tensor sigma = at::empty({size, 1, 1, 1, 1});
    for (int64_t i = 0; i < size; ++i) {
      const int64_t clip = draws.below(latents_.size(0));
      const at::Tensor latent = latents_[clip].to(at::kFloat);
      clean.push_back(image ? latent.narrow(1, 0, 1) : latent);
      const bool drop = draws.uniform() < o_.text_dropout;
      texts.push_back(drop ? empty_ : text_.at(shapes_caption(shapes_attributes(ShapesSplit::train, clip))));
      const double u = 1 / (1 + std::exp(-draws.normal()));
      const double shift = draws.uniform() < o_.text_share ? o_.text_shift : o_.shift;
      sigma[i] = shifted_level(u, shift);
    }
    const at::Tensor x0 = at::stack(clean);
    const at::Tensor noise = random_normal(key.with("noise"), x0.sizes());
    return {((1 - sigma) * x0 + sigma * noise).to(device_), (1000 * sigma.flatten()).to(device_),
            at::cat(texts).to(device_), (noise - x0).to(device_)};
  }

 private:
  const at::Tensor& latents_;
  const PretrainTransformerOptions& o_;
  at::Device device_;
  at::Tensor empty_;
  std::map<std::string, at::Tensor> text_;
};

}  // namespace

TransformerConfig small_transformer_config(const PretrainTransformerOptions& options, int64_t text_dim) {
  TransformerConfig config;
  config.num_layers = options.blocks;
  config.num_attention_heads = options.heads;
  config.attention_head_dim = options.head_dim;
  config.ffn_dim = options.ffn_dim;
  config.text_dim = text_dim;
  return config;
}

at::Tensor cache_latents(const Vae& vae, const std::string& vae_hash,
                         const PretrainTransformerOptions& options, const std::filesystem::path& work,
                         at::Device device, const std::function<bool()>& stop) {
  const at::NoGradGuard no_grad;
  const auto path = work / "latents.safetensors";
  const std::string made_from = fmt::format("{} {} {} {} {} {}", vae_hash, options.clips, options.frames,
                                            options.height, options.width, options.seed);
  if (std::filesystem::exists(path)) {
    const auto file = SafetensorsFile::open(path);
    const auto found = file->metadata().find("made_from");
    if (found != file->metadata().end() && found->second == made_from)
      return TensorStore::open_file(path).get("latents").clone();
  }
  std::vector<at::Tensor> all;
  const double start = steady_seconds();
  for (int64_t i = 0; i < options.clips; ++i) {
    if (stop())
      fail(ExitCode::requeue,
           "encoding stopped as asked at clip {} of {} (the VAE is in {}): run the same command again", i,
           options.clips, work.string());
    const ShapesClip clip =
        shapes_clip(ShapesSplit::train, i, options.seed, options.frames, options.height, options.width);
    const at::Tensor mean = vae.encode_whole(frames_to_video(clip.frames).to(device)).mean;
    all.push_back(vae.normalize(mean)[0].to(at::kCPU).to(at::kBFloat16));
    if ((i + 1) % 512 == 0)
      log_info("pretrain: {} of {} clips encoded, {:.0f} s", i + 1, options.clips, steady_seconds() - start);
  }
  at::Tensor latents = at::stack(all);
  save_tensors(path, {{"latents", latents}}, {{"made_from", made_from}});
  return latents;
}

Transformer pretrain_transformer(const Vae& vae, const at::Tensor& latents, const CaptionEmbedding& embed,
                                 int64_t text_dim, const PretrainTransformerOptions& options,
                                 const std::filesystem::path& work, at::Device device,
                                 const std::function<bool()>& stop, bool& finished) {
  const TransformerConfig config = small_transformer_config(options, text_dim);
  Transformer model = Transformer::random(config, RandomKey{options.seed, 0}.with("transformer"));
  model.to(device, at::kFloat);
  TrainedParameters trained(model.parameters(), {.beta2 = 0.99,
                                                 .weight_decay = options.weight_decay,
                                                 .gradient_clip = options.gradient_clip,
                                                 .muon_prefix = options.muon ? "blocks." : "",
                                                 .average_decay = options.ema});
  const auto path = work / "transformer.safetensors";
  if (std::filesystem::exists(path)) trained.load(path);
  const Trainer trainer(latents, embed, options, device);
  const int64_t total = options.image_steps + options.video_steps;
  log_info("pretrain: transformer from step {} of {} ({} pictures, then {} clips)", trained.step_count(),
           total, options.image_steps * options.image_batch, options.video_steps * options.video_batch);

  const auto averaged = [&] { return Transformer(config, trained.averaged()); };
  double loss_sum = 0, since = steady_seconds();
  int64_t counted = 0;
  finished = true;
  while (trained.step_count() < total) {
    const Batch batch = trainer.make(trained.step_count());
    const auto [loss, gradients] = batch_gradients(model, batch, trained.values(), options.workers);
    loss_sum += loss;
    ++counted;
    trained.step(learning_rate(options, trained.step_count()), gradients);
    const bool stopping = stop();
    if (trained.step_count() % options.save_every == 0 || stopping || trained.step_count() == total) {
      trained.save(path);
      log_info("pretrain: step {} of {}, loss {:.4f}, {:.2f} steps/s", trained.step_count(), total,
               loss_sum / static_cast<double>(counted),
               static_cast<double>(counted) / (steady_seconds() - since));
      loss_sum = 0;
      counted = 0;
      since = steady_seconds();
    }
    if (stopping) {
      finished = false;
      break;
    }
    const double pause = steady_seconds();
    const bool image = trained.step_count() <= options.image_steps, last = trained.step_count() == total;
    const auto due = [&](int64_t every) { return every > 0 && (trained.step_count() % every == 0 || last); };
    if (due(options.gain_every)) {
      const auto gain = caption_gain(averaged(), latents, embed, options, image, device);
      log_info(
          "pretrain: step {}: velocity error {:.4f}; {:+.2f} % with another outline in the caption, {:+.2f} "
          "% with another direction",
          trained.step_count(), gain.right, 100 * (gain.wrong_outline / gain.right - 1),
          100 * (gain.wrong_direction / gain.right - 1));
    }
    if (due(options.evaluate_every) && options.evaluate_clips > 0) {
      log_info("pretrain: step {}: {}", trained.step_count(),
               score_teacher(averaged(), vae, embed, options, image ? 1 : options.frames,
                             options.evaluate_clips, device, stop)
                   .summary());
    }
    since += steady_seconds() - pause;
  }
  return averaged();
}

CaptionGain caption_gain(const Transformer& model, const at::Tensor& latents, const CaptionEmbedding& embed,
                         const PretrainTransformerOptions& options, bool image, at::Device device) {
  const at::NoGradGuard no_grad;
  constexpr double kSigma = 0.95;
  const int64_t count = std::min<int64_t>(32, latents.size(0));
  at::Tensor x0 = latents.narrow(0, 0, count).to(device, at::kFloat);
  if (image) x0 = x0.narrow(2, 0, 1);
  const at::Tensor noise = random_normal(RandomKey{options.seed, 0}.with("gain"), x0.sizes()).to(device);
  const at::Tensor x = (1 - kSigma) * x0 + kSigma * noise;
  const auto error = [&](auto change) {
    std::vector<at::Tensor> texts;
    for (int64_t i = 0; i < count; ++i) {
      ShapeAttributes a = shapes_attributes(ShapesSplit::train, i);
      change(a);
      texts.push_back(embed(shapes_caption(a)).to(device));
    }
    const at::Tensor t = at::full({count}, 1000 * kSigma, x.options());
    return at::mse_loss(model.forward(x, t, at::cat(texts)), noise - x0).item<double>();
  };
  return {error([](ShapeAttributes&) {}), error([](ShapeAttributes& a) { a.outline = (a.outline + 1) % 4; }),
          error([](ShapeAttributes& a) { a.direction = (a.direction + 1) % 4; })};
}

ShapesScore score_teacher(const Transformer& model, const Vae& vae, const CaptionEmbedding& embed,
                          const PretrainTransformerOptions& options, int64_t frames, int64_t clips,
                          at::Device device, const std::function<bool()>& stop) {
  const at::NoGradGuard no_grad;
  constexpr int64_t kBatch = 8;
  ShapesScore score;
  const at::Tensor empty = embed("").to(device);
  for (int64_t begin = 0; begin < clips; begin += kBatch) {
    const int64_t size = std::min(kBatch, clips - begin);
    std::vector<at::Tensor> texts;
    for (int64_t i = begin; i < begin + size; ++i)
      texts.push_back(embed(shapes_caption(shapes_attributes(ShapesSplit::evaluation, i))).to(device));
    const at::Tensor text = at::cat({at::cat(texts), empty.expand({size, -1, -1})});
    at::Tensor x = random_normal(RandomKey{options.seed, 0}.with("score").with(static_cast<uint64_t>(begin)),
                                 {size, 16, (frames - 1) / 4 + 1, options.height / 8, options.width / 8})
                       .to(device);
    const auto sigma = [&](int64_t i) {
      const double u = 1 - static_cast<double>(i) / static_cast<double>(options.sampling_steps);
      return shifted_level(u, options.shift);
    };
    for (int64_t i = 0; i < options.sampling_steps; ++i) {
      if (stop()) return score;
      const at::Tensor t = at::full({2 * size}, 1000 * sigma(i), x.options());
      const at::Tensor v = model.forward(at::cat({x, x}), t, text);
      const at::Tensor conditional = v.narrow(0, 0, size), unconditional = v.narrow(0, size, size);
      x = x + (sigma(i + 1) - sigma(i)) * (unconditional + options.guidance * (conditional - unconditional));
    }
    for (int64_t i = 0; i < size; ++i)
      score.add(shapes_attributes(ShapesSplit::evaluation, begin + i),
                read_shapes(video_to_frames(vae.decode(vae.denormalize(x.narrow(0, i, 1))).to(at::kCPU))));
  }
  return score;
}

}  // namespace surgery
