#pragma once
#include <filesystem>
#include <functional>
#include <string>

#include "data/shapes_score.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

/// How the small teacher's transformer is trained. Images come first (the first latent frame of a clip is the
/// latent of its first picture): what an object looks like is learnt there at a fifth of the cost, then clips
/// teach motion.
struct PretrainTransformerOptions {
  int64_t blocks = 10, heads = 8, head_dim = 16, ffn_dim = 384;
  int64_t frames = 17, height = 128, width = 160;
  int64_t clips = 2048;  ///< in the latent cache
  int64_t image_steps = 4000, image_batch = 16;
  int64_t video_steps = 9000, video_batch = 4;
  /// Threads that each take a share of every batch (the batch must be a multiple). Whole samples in parallel
  /// cost one meeting a step where parallel operators of this size meet a thousand times; with one operator
  /// thread each.
  int64_t workers = 1;
  int64_t warmup = 50;
  double learning_rate = 2e-3;
  double decay_share = 0.6;  ///< last share of the video steps, over which the rate falls linearly to zero
  bool muon = true;          ///< for the blocks' matrices; AdamW for the rest
  double ema = 0.999, gradient_clip = 1, weight_decay = 0.01;
  double shift = 3;  ///< time shift of the noise levels, and of the evaluations' sampler
  /// Share of the samples whose noise level is drawn with `text_shift` instead: what the text decides (where
  /// an object is, which outline it has) is decided near pure noise, where few of the others fall.
  double text_share = 0.5, text_shift = 20;
  double text_dropout = 0.1;
  double guidance = 3;          ///< of the evaluations
  int64_t sampling_steps = 25;  ///< of the evaluations
  int64_t save_every = 100, gain_every = 250, evaluate_every = 1000, evaluate_clips = 16;
  uint64_t seed = 0;
};

/// The small teacher's sizes.
TransformerConfig small_transformer_config(const PretrainTransformerOptions& options = {},
                                           int64_t text_dim = 64);

/// Text rows [1, length, text_dim] of a caption, padded.
using CaptionEmbedding = std::function<at::Tensor(const std::string&)>;

/// How much the caption matters to the model: mean squared error of its velocity at noise level 0.95 with the
/// right caption, and with one whose outline (direction) is another. What has not been learnt makes no
/// difference. Rests on a fixed set of 32 latents.
struct CaptionGain {
  double right = 0, wrong_outline = 0, wrong_direction = 0;
};

/// Encodes `options.clips` training clips: normalised latents [clips, 16, T, H/8, W/8] bf16, kept in
/// `work`/latents.safetensors and reused when it fits the VAE's hash. All or nothing: when `stop` (polled
/// between clips) asks for it, throws Error{requeue}.
at::Tensor cache_latents(const Vae& vae, const std::string& vae_hash,
                         const PretrainTransformerOptions& options, const std::filesystem::path& work,
                         at::Device device, const std::function<bool()>& stop);

/// Trains (or continues, from `work`/transformer.safetensors) and returns the averaged weights. `stop`,
/// polled between steps, saves and ends early; `finished` tells which. Progress and scores go to the log.
Transformer pretrain_transformer(const Vae& vae, const at::Tensor& latents, const CaptionEmbedding& embed,
                                 int64_t text_dim, const PretrainTransformerOptions& options,
                                 const std::filesystem::path& work, at::Device device,
                                 const std::function<bool()>& stop, bool& finished);

/// `latents` as `cache_latents` gives them; `image`: their first frames alone.
CaptionGain caption_gain(const Transformer& model, const at::Tensor& latents, const CaptionEmbedding& embed,
                         const PretrainTransformerOptions& options, bool image, at::Device device);

/// Score of clips generated for unseen combinations (`frames` 1: pictures, whose direction cannot be read);
/// of fewer clips when `stop` (polled between sampling steps) asks for an end.
ShapesScore score_teacher(const Transformer& model, const Vae& vae, const CaptionEmbedding& embed,
                          const PretrainTransformerOptions& options, int64_t frames, int64_t clips,
                          at::Device device, const std::function<bool()>& stop);

}  // namespace surgery
