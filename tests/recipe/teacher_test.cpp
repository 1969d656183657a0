// The teacher that is shipped (datasets/shapes/teacher): every result of the shapes world rests on it.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/log.h"
#include "data/pixels.h"
#include "data/shapes_score.h"
#include "recipe/pretrain_transformer.h"
#include "recipe/pretrain_vae.h"
#include "wan/generate.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

const std::filesystem::path kTeacher = std::filesystem::path(SURGERY_SOURCE_DIR) / "datasets/shapes/teacher";

/// P(at most `most` of `trials` are right) when each is with probability `share`.
double at_most(int64_t most, int64_t trials, double share) {
  double sum = 0, term = std::pow(1 - share, static_cast<double>(trials));
  for (int64_t k = 0; k <= most; ++k) {
    sum += term;
    term *= static_cast<double>(trials - k) / static_cast<double>(k + 1) * share / (1 - share);
  }
  return sum;
}

/// The highest demand that a share of right clips misses with a probability below `false_alarm`.
int64_t fewest_right(int64_t trials, double share, double false_alarm) {
  int64_t demand = 0;
  while (demand < trials && at_most(demand, trials, share) < false_alarm) ++demand;
  return demand;
}

TEST(ShippedTeacher, HasTheSizesThatPretrainMakes) {
  const auto model = Transformer::load(kTeacher);
  TransformerConfig config = small_transformer_config();
  EXPECT_EQ(model.config().to_json(), config.to_json());
}

TEST(ShippedTeacher, ItsVaeKeepsWhatTheScoreReads) {
  Vae vae = Vae::load(kTeacher);
  vae.to(at::kCPU, at::kFloat);
  const auto quality = reconstruct_shapes(vae, 40, 0);
  EXPECT_GE(quality.score.clip_share(), 0.95) << quality.score.summary();
  EXPECT_GT(quality.psnr, 25) << "dB; 26.8 over 64 clips";
}

TEST(ShippedTeacher, DrawsWhatCaptionsItNeverSawAskFor) {
  constexpr int64_t kClips = 16;
  constexpr double kShare = 124.0 / 128;  // of right clips, as measured (teacher/README.md)
  const auto demand = fewest_right(kClips, kShare, 1e-4);
  ASSERT_LT(1 - at_most(demand - 1, kClips, 0.25), 1e-4) << "four outlines: chance must not pass";
  auto model = Transformer::load(kTeacher);
  Vae vae = Vae::load(kTeacher);
  auto encoder = TextEncoder::load(kTeacher);
  model.to(at::kCPU, at::kFloat), vae.to(at::kCPU, at::kFloat), encoder.to(at::kCPU, at::kFloat);
  const auto tokenizer = Tokenizer::load(kTeacher);
  const auto text = [&](const std::string& prompt) {
    return pad_text(embed_prompt(tokenizer, encoder, prompt), tokenizer.max_length());
  };
  SamplingOptions options;
  options.steps = 15, options.guidance = 3;
  ShapesScore score;
  for (int64_t i = 0; i < kClips; ++i) {
    const auto asked = shapes_attributes(ShapesSplit::evaluation, i);
    const auto noise =
        random_normal(RandomKey{0, 0}.with("teacher").with(static_cast<uint64_t>(i)), {1, 16, 5, 16, 20});
    const auto latents = generate_latents(model, text(shapes_caption(asked)), text(""), options, noise);
    const at::NoGradGuard no_gradient;
    score.add(asked, read_shapes(video_to_frames(vae.decode(vae.denormalize(latents)))));
  }
  log_info("shipped teacher: {}, {} wanted", score.summary(), demand);
  EXPECT_GE(score.all_four, demand) << score.summary();
}

}  // namespace
}  // namespace surgery
