// Stage 9: every variant against the teacher from the same noise, and the shapes score.
#include <cmath>

#include "base/errors.h"
#include "base/log.h"
#include "data/pixels.h"
#include "parallel/stop.h"
#include "recipe/artifact.h"
#include "recipe/evaluation.h"
#include "recipe/vae_settings.h"
#include "report/metrics.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

// Columns of the per-clip table that the ranks fill together.
enum Column : int64_t { kLatent, kPsnr, kColour, kOutline, kDirection, kBackground, kColumns };
constexpr double kUnread = -1;

at::Tensor decode(Recipe& recipe, const at::Tensor& latents) {
  const at::NoGradGuard no_grad;
  return recipe.vae()
      .decode(recipe.vae().denormalize(latents.unsqueeze(0).to(recipe.device)))
      .to(at::kCPU, at::kFloat);
}

void read_attributes(const at::Tensor& video, const at::Tensor& row) {
  const ShapesReading reading = read_shapes(video_to_frames(video));
  row[kColour] = reading.colour.value_or(-1);
  row[kOutline] = reading.outline.value_or(-1);
  row[kDirection] = reading.direction.value_or(-1);
  row[kBackground] = reading.background.value_or(-1);
}

/// One clip of every variant into `rows` [variants, columns]; the first variant is the teacher.
void score_clip(Recipe& recipe, const std::vector<std::string>& variants, int64_t clip, bool shapes,
                const at::Tensor& rows) {
  at::Tensor teacher_latents, teacher_video;
  for (size_t v = 0; v < variants.size(); ++v) {
    const at::Tensor row = rows[static_cast<int64_t>(v)];
    const at::Tensor latents = read_sample(sample_path(recipe.run, variants[v], clip)).latents;
    const at::Tensor video = decode(recipe, latents);
    if (v == 0) {
      teacher_latents = latents;
      teacher_video = video;
    } else {
      row[kLatent] = relative_error(latents, teacher_latents);
      row[kPsnr] = std::min(kMostDecibels, psnr(video, teacher_video, 2));  // pixels span 2
    }
    if (shapes) read_attributes(video, row);
  }
}

VariantScore summarize(const std::string& variant, const at::Tensor& rows,
                       const std::vector<std::optional<ShapeAttributes>>& asked, bool shapes) {
  VariantScore score;
  score.variant = variant;
  score.clips = rows.size(0);
  score.latent_error = rows.select(1, kLatent).mean().item<double>();
  score.psnr = rows.select(1, kPsnr).mean().item<double>();
  score.has_shapes = shapes;
  if (!shapes) return score;
  for (int64_t i = 0; i < rows.size(0); ++i) {
    const auto read = [&](int64_t column) -> std::optional<int> {
      const double value = rows[i][column].item<double>();
      return value == kUnread ? std::nullopt : std::optional<int>(static_cast<int>(value));
    };
    ShapesReading reading;
    reading.colour = read(kColour);
    reading.outline = read(kOutline);
    reading.direction = read(kDirection);
    reading.background = read(kBackground);
    score.shapes.add(*asked[static_cast<size_t>(i)], reading);
  }
  return score;
}

MeanScore average(const std::vector<VariantScore>& checkpoints) {
  MeanScore mean;
  mean.checkpoints = std::ssize(checkpoints);
  const double weight = 1.0 / static_cast<double>(checkpoints.size());
  for (const VariantScore& s : checkpoints) {
    mean.clips = s.clips;
    mean.latent_error += s.latent_error * weight;
    mean.psnr += s.psnr * weight;
    mean.has_shapes = s.has_shapes;
    mean.clip_share += s.shapes.clip_share() * weight;
    for (size_t a = 0; a < 4; ++a) mean.attribute_share[a] += s.shapes.attribute_share(a) * weight;
  }
  return mean;
}

nlohmann::ordered_json to_json(const VariantScore& s) {
  nlohmann::ordered_json json{
      {"variant", s.variant}, {"clips", s.clips}, {"latent_error", s.latent_error}, {"psnr", s.psnr}};
  if (s.has_shapes) {
    const Proportion interval = s.shapes.clip_interval();
    json["shapes"] = {{"clips", s.shapes.clips},
                      {"all_four", s.shapes.all_four},
                      {"right", s.shapes.right},
                      {"clip_share", s.shapes.clip_share()},
                      {"interval", {interval.low, interval.high}},
                      {"attribute_share", s.shapes.attribute_share()}};
  }
  return json;
}

nlohmann::ordered_json to_json(const MeanScore& mean) {
  nlohmann::ordered_json json{{"checkpoints", mean.checkpoints},
                              {"clips", mean.clips},
                              {"latent_error", mean.latent_error},
                              {"psnr", mean.psnr}};
  if (mean.has_shapes)
    json["shapes"] = {{"clip_share", mean.clip_share}, {"attribute_shares", mean.attribute_share}};
  return json;
}

MeanScore mean_from_json(const nlohmann::json& json) {
  MeanScore mean;
  mean.checkpoints = json.at("checkpoints");
  mean.clips = json.at("clips");
  mean.latent_error = json.at("latent_error");
  mean.psnr = json.at("psnr");
  if (json.contains("shapes")) {
    mean.has_shapes = true;
    mean.clip_share = json["shapes"].at("clip_share");
    mean.attribute_share = json["shapes"].at("attribute_shares");
  }
  return mean;
}

VariantScore from_json(const nlohmann::json& json) {
  VariantScore s;
  s.variant = json.at("variant");
  s.clips = json.at("clips");
  s.latent_error = json.at("latent_error");
  s.psnr = json.at("psnr");
  if (json.contains("shapes")) {
    s.has_shapes = true;
    s.shapes.clips = json["shapes"].at("clips");
    s.shapes.all_four = json["shapes"].at("all_four");
    s.shapes.right = json["shapes"].at("right");
  }
  return s;
}

}  // namespace

std::string evaluation_json(const Evaluation& evaluation) {
  nlohmann::ordered_json json{{"fingerprint", evaluation.fingerprint}};
  json["variants"] = nlohmann::ordered_json::array();
  for (const VariantScore& s : evaluation.variants) json["variants"].push_back(to_json(s));
  if (evaluation.average) json["average"] = to_json(*evaluation.average);
  return json.dump(1) + "\n";
}

Evaluation read_evaluation(const std::filesystem::path& path) {
  try {
    const auto json = nlohmann::json::parse(read_file(path));
    Evaluation evaluation;
    evaluation.fingerprint = json.at("fingerprint");
    for (const auto& s : json.at("variants")) evaluation.variants.push_back(from_json(s));
    if (json.contains("average")) evaluation.average = mean_from_json(json["average"]);
    return evaluation;
  } catch (const nlohmann::json::exception& error) {
    fail_data("{}: not an evaluation ({}): remove it, it will be made again", path.string(), error.what());
  }
}

bool make_evaluation(Recipe& recipe) {
  StageTimer timer(recipe, "evaluate");
  const GenerateSection& g = recipe.config.generate;
  const auto prompts = recipe_prompts(g.prompts, g.count, "generate.prompts");
  const int64_t clips = static_cast<int64_t>(prompts.size()) * g.samples;
  const std::vector<std::string> variants = sample_variants(recipe.config);
  std::vector<std::optional<ShapeAttributes>> asked;
  bool shapes = recipe.config.evaluate.shapes_score;
  for (int64_t i = 0; i < clips; ++i) {
    asked.push_back(parse_shapes_caption(prompts[static_cast<size_t>(i / g.samples)].name));
    shapes = shapes && asked.back().has_value();
  }
  const Selection selection = require_selection(recipe);
  std::vector<std::vector<std::string>> wanted;  // on every rank: the model's hashes are a collective
  for (const std::string& variant : variants)
    wanted.push_back(sample_fingerprints(recipe, selection, variant, prompts));
  // The clips carry everything they depend on; together they decide whether the scores still hold.
  std::string fingerprint;
  int64_t current = 0;
  if (recipe.session.rank() == 0) {
    std::vector<std::string> parts{"evaluation-2",
                                   (shapes ? "shapes" : "") + vae_settings_text(recipe.config.model)};
    if (shapes)
      for (const Prompt& prompt : prompts) parts.push_back(prompt.name);
    for (size_t v = 0; v < variants.size(); ++v)
      for (int64_t i = 0; i < clips; ++i) {
        const auto path = sample_path(recipe.run, variants[v], i);
        require_file(path, "generate");
        const std::string& expected = wanted[v][static_cast<size_t>(i)];
        require_fingerprint(path, read_sample(path).fingerprint, expected);
        parts.push_back(variants[v] + expected);
      }
    fingerprint = make_fingerprint(parts);
    if (std::filesystem::exists(recipe.run.evaluation())) try {
        current = read_evaluation(recipe.run.evaluation()).fingerprint == fingerprint;
      } catch (const Error& error) {
        set_aside(recipe.run.evaluation(), error.what());
      }
  }
  current = static_cast<int64_t>(
      recipe.session.world().all_reduce_value(static_cast<double>(current), Reduction::max));
  if (current > 0) {
    timer.done(0, 1);
    return true;
  }
  at::Tensor table = at::zeros({static_cast<int64_t>(variants.size()), clips, kColumns}, at::kDouble);
  bool left = false;
  for (int64_t i = recipe.session.rank(); i < clips && !left; i += recipe.session.size()) {
    if ((left = recipe.stop_requested())) break;
    score_clip(recipe, variants, i, shapes, table.select(1, i));
    recipe.progress(fmt::format("clip {}", i));
  }
  if (agree_on_stop(recipe.session.world(), left)) {  // scores are all or none
    timer.done(0, 0, 1);
    return false;
  }
  recipe.session.world().all_reduce(table, Reduction::sum);
  Evaluation evaluation;
  evaluation.fingerprint = fingerprint;
  std::vector<VariantScore> checkpoints;
  for (size_t v = 0; v < variants.size(); ++v) {
    evaluation.variants.push_back(summarize(variants[v], table[static_cast<int64_t>(v)], asked, shapes));
    const VariantScore& s = evaluation.variants.back();
    if (variant_iteration(variants[v])) checkpoints.push_back(s);
    const std::string errors =
        s.variant == "teacher" ? "the reference"
                               : fmt::format("latent error {:.4f}, PSNR {:.2f} dB", s.latent_error, s.psnr);
    log_info("evaluate: {:<12} {}{}", s.variant, errors, s.has_shapes ? ", " + s.shapes.summary() : "");
  }
  if (checkpoints.size() > 1) evaluation.average = average(checkpoints);
  if (recipe.session.rank() == 0) write_file(recipe.run.evaluation(), evaluation_json(evaluation));
  recipe.session.world().barrier();
  timer.done(1, 0);
  return true;
}

}  // namespace surgery
