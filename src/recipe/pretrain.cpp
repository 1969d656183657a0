#include "recipe/pretrain.h"

#include <map>
#include <memory>

#include "base/errors.h"
#include "base/log.h"
#include "data/shapes.h"
#include "recipe/pretrain_settings.h"
#include "storage/atomic_file.h"
#include "wan/pipeline_files.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

/// Every word of a caption but the articles: one piece each, so that a word is one row of the text.
std::vector<std::string> caption_words() {
  std::vector<std::string> words{"moving", "background"};
  for (const auto word : kShapeColours) words.emplace_back(word);
  for (const auto word : kShapeOutlines) words.emplace_back(word);
  for (const auto word : kShapeDirections) words.emplace_back(word);
  for (const auto word : kShapeBackgrounds) words.emplace_back(word);
  return words;
}

/// Trains the tokenizer and draws the umT5, where `work` has none.
void make_text(const Pretraining& settings, const fs::path& work) {
  if (!fs::exists(work / "tokenizer" / "tokenizer_config.json")) {
    std::vector<std::string> lines;
    for (const bool held_out : {false, true})
      for (const auto& a : shapes_combinations(held_out)) lines.push_back(shapes_caption(a));
    train_tokenizer(lines, 128, settings.text_length, work / "tokenizer", caption_words());
  }
  if (fs::exists(work / "text_encoder" / "config.json")) return;
  TextEncoderConfig config;
  config.vocab_size = Tokenizer::load(work / "tokenizer").vocab_size();
  config.d_model = settings.text_dim, config.d_ff = 2 * settings.text_dim;
  config.num_layers = 2, config.num_heads = 4, config.d_kv = settings.text_dim / 4;
  TextEncoder::random(config, RandomKey{settings.transformer.seed, 0}.with("umt5"))
      .save(work / "text_encoder", at::kBFloat16);
}

Vae make_vae(const Pretraining& settings, const fs::path& work, const std::function<bool()>& stop) {
  if (fs::exists(work / "vae" / "config.json")) return Vae::load(work / "vae");
  const uint64_t seed = settings.transformer.seed;
  Vae vae = pretrain_vae(settings.vae, RandomKey{seed, 0}, work, stop);
  measure_latents(vae, settings.latent_clips, seed);
  vae.save(work / "vae", at::kFloat);
  return Vae::load(work / "vae");
}

/// Captions embedded as generation will: through the shipped weights, padded with exact zeros.
CaptionEmbedding caption_embedding(const Pretraining& settings, const fs::path& work) {
  const auto tokenizer = std::make_shared<Tokenizer>(Tokenizer::load(work / "tokenizer"));
  auto encoder = TextEncoder::load(work / "text_encoder");
  encoder.to(at::kCPU, at::kFloat);
  return [=, length = settings.text_length](const std::string& caption) {
    return pad_text(embed_prompt(*tokenizer, encoder, caption), length);
  };
}

void write_model(const fs::path& work, Vae vae, const Transformer& transformer, const fs::path& output) {
  for (const char* part : {"tokenizer", "text_encoder"}) {
    fs::create_directories(output / part);
    for (const auto& entry : fs::directory_iterator(work / part))
      write_file(output / part / entry.path().filename(), read_file(entry.path()));
  }
  vae.save(output / "vae", at::kBFloat16);
  transformer.save(output / "transformer", at::kBFloat16);
  write_pipeline_files(output);
}

}  // namespace

void pretrain_teacher(const Pretraining& settings, const fs::path& output, const fs::path& work,
                      at::Device device, const std::function<bool()>& stop) {
  std::error_code error;
  fs::create_directories(work, error);
  if (error) fail_io("{}: cannot be made: {}", work.string(), error.message());
  keep_settings(settings, work);
  remove_stale_temporaries(work);
  make_text(settings, work);
  Vae vae = make_vae(settings, work, stop);
  vae.to(device, at::kFloat);
  const auto hash = hash_file(work / "vae" / "diffusion_pytorch_model.safetensors");
  const auto latents = cache_latents(vae, hash, settings.transformer, work, device, stop);
  const auto embed = caption_embedding(settings, work);
  bool finished = false;
  const auto transformer = pretrain_transformer(vae, latents, embed, settings.text_dim, settings.transformer,
                                                work, device, stop, finished);
  if (!finished)
    fail(ExitCode::requeue, "pretraining stopped as asked (its state is in {}): run the same command again",
         work.string());
  write_model(work, vae, transformer, output);
  log_info("pretrain: the teacher is in {}", output.string());
  if (settings.score_clips == 0) return;
  // What was shipped is what is scored: weights rounded to bf16.
  auto shipped = Transformer::load(output / "transformer");
  auto shipped_vae = Vae::load(output / "vae");
  shipped.to(device, at::kFloat);
  shipped_vae.to(device, at::kFloat);
  log_info("pretrain: reconstructions: {}",
           reconstruct_shapes(shipped_vae, settings.score_clips, settings.transformer.seed).score.summary());
  log_info("pretrain: teacher on unseen combinations: {}",
           score_teacher(shipped, shipped_vae, embed, settings.transformer, settings.transformer.frames,
                         settings.score_clips, device, stop)
               .summary());
  if (stop())
    fail(
        ExitCode::requeue,
        "the closing score stopped as asked (the teacher is in {}): run the same command again for all of it",
        output.string());
}

}  // namespace surgery
