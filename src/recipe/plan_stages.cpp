// The formulas of `plan`. N tokens of a clip, B blocks, F = heads * head_dim, P parameters, R rates
// distilled; a branch is a guidance branch (2 with guidance > 1). FLOPs of a forward: attention/cost_model.h.
#include "recipe/plan_stages.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "data/shapes.h"
#include "data/video_tars.h"
#include "parallel/bucket_layout.h"
#include "recipe/budget.h"
#include "recipe/component_cost.h"
#include "recipe/data_section.h"
#include "recipe/finetune_checkpoint.h"
#include "recipe/precision.h"
#include "recipe/sample_set.h"
#include "recipe/streaming.h"
#include "recipe/trained_subset.h"
#include "recipe/vae_memory.h"
#include "recipe/vae_settings.h"

namespace surgery {
namespace {

constexpr double fp32 = 4, bf16 = 2;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t branches(double guidance) {
  return guidance > 1 ? 2 : 1;
}

/// Elements of a clip's latents, [16, (frames-1)/4+1, height/8, width/8].
double latent_elements(const VaeConfig& vae, int64_t frames, int64_t height, int64_t width) {
  return double(vae.z_dim) * double((frames - 1) / 4 + 1) * double(height / 8) * double(width / 8);
}

/// The bucket that needs the most of something.
template <class Measure>
ClipShape largest(const std::vector<ClipShape>& shapes, const Measure& measure) {
  return *std::ranges::max_element(shapes, {}, measure);
}

/// Of a clip, if every bucket gets as many: which gets how many, only the set would tell.
template <class Measure>
double mean(const std::vector<ClipShape>& shapes, const Measure& measure) {
  double sum = 0;
  for (const ClipShape& shape : shapes) sum += measure(shape);
  return sum / double(shapes.size());
}

/// FLOPs of the linear term of one block at a rate: phi on both sides and the sums.
double linear_flops(const CostGeometry& g, const FeatureMapConfig& phi, Rate rate) {
  const double softmax =
      4.0 * double(g.tokens) * double(rate.softmax_tokens(g.tokens)) * double(g.heads * g.head_dim);
  return attention_core_flops(g, phi, rate) - softmax;
}

}  // namespace

StagePlanner::StagePlanner(const Config& config, const ModelSizes& model, const PlanMachine& machine,
                           std::vector<std::string>& notes)
    : config_(config),
      model_(model),
      ranks_(machine.ranks),
      precision_(precision_name(config.model, config.model.device == "cuda")),
      text_precision_(text_precision(config.model, config.model.device == "cuda")),
      notes_(notes) {
  phi_.heads = model.transformer.num_attention_heads;
  phi_.head_dim = model.transformer.attention_head_dim;
  phi_.degree = config.distill.phi_degree;
  phi_.layers = config.distill.phi_layers;
  rates_ = parse_rates(config.distill.rates);
  int64_t prompts = config.generate.count;
  try {
    prompts = std::ssize(recipe_prompts(config.generate.prompts, prompts, "generate.prompts"));
  } catch (const Error&) {  // the list may be on another machine; then the number asked for counts
    if (prompts == 0)
      notes_.push_back(fmt::format(
          "generate.prompts = {} cannot be read and generate.count is 0: generation is not counted",
          config.generate.prompts));
  }
  clips_generated_ = prompts * config.generate.samples;
  students_ = std::ssize(sample_variants(config)) - 1;
  checkpoints_ = students_ - 1;
  decide_streaming(machine.memory_bytes);
  clips_ = config.data.count;
  if (const auto split = parse_shapes_split(config.data.videos); split && clips_ == 0)
    clips_ = shapes_split_size(*split);
  if (clips_ == 0)
    notes_.push_back("data.count = 0 (all clips): encoding and shards are not counted, set it to count them");
  if (std::ssize(clip_shapes(config.data)) > 1)
    notes_.push_back(
        "data.buckets: clips are counted as if every bucket got as many; memory is that of the largest");
  const Budget budget = parse_budget(config.select.budget);
  if (config.select.mode == "softmax") {
    budget_share_ = 1;
  } else if (budget.kind == Budget::Kind::blocks) {
    converted_ = budget.blocks;
    budget_rate_ = budget.rate;
    if (converted_ > model.transformer.num_layers)
      fail_usage("select.budget = {} converts more blocks than the model has ({})", config.select.budget,
                 model.transformer.num_layers);
  } else {
    budget_share_ = budget.value;
    if (budget.kind == Budget::Kind::cost) {
      const CostGeometry g = geometry(config.cost);
      budget_share_ /= attention_core_flops(g, phi_, Rate::full()) * double(g.blocks);
    }
    converted_ = model.transformer.num_layers;
  }
}

/// One student forward: the teacher's with the attention cores cut to the budget.
double StagePlanner::student_flops(const CostGeometry& g) const {
  const double core = attention_core_flops(g, phi_, Rate::full());
  double saved = (1 - std::min(1.0, budget_share_)) * core * double(g.blocks);
  if (budget_rate_) saved = double(converted_) * (core - attention_core_flops(g, phi_, *budget_rate_));
  return transformer_flops(g) - saved;
}

int64_t StagePlanner::student_parameters() const {
  return parameter_count(model_.transformer) + converted_ * 2 * feature_map_parameters(phi_);
}

int64_t StagePlanner::trained_parameters() const {
  check_trained(config_.finetune.train, model_.transformer);
  // Which blocks become hybrid is not known yet, and all are alike.
  TransformerConfig student = model_.transformer;
  student.hybrid = HybridSettings{};
  student.hybrid->phi_degree = phi_.degree;
  student.hybrid->phi_layers = phi_.layers;
  for (int64_t block = 0; block < student.num_layers; ++block)
    student.hybrid->rates.push_back(block < converted_ ? rates_.back() : Rate::full());
  const TrainedSubset subset(config_.finetune.train, student.hybrid->rates);
  int64_t count = 0;
  for (const auto& [name, shape] : transformer_parameter_shapes(student)) {
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    if (subset.contains(name)) count += elements;
  }
  return count;
}

void StagePlanner::decide_streaming(double memory) {
  const ModelSection& m = config_.model;
  if (m.device == "auto" && (m.precision == "auto" || m.text_precision == "auto"))
    notes_.push_back(
        "weights whose precision is auto are counted as fp32, as on the CPU: for a GPU give "
        "--model.device=cuda");
  const double weights = resident_weights(model_, parse_precision(precision_).dtype, text_precision_);
  streamed_ = streams_blocks(config_.model.stream, weights, memory);
  if (!streamed_) return;
  notes_.push_back(fmt::format(
      "blocks of transformer and text encoder are streamed from their files, two in memory at once "
      "(model.stream = {}; whole the larger takes {}, a rank has {}); {}",
      config_.model.stream, bytes_text(weights), memory > 0 ? bytes_text(memory) : "unknown memory",
      checkpoints_ > 0 ? "a student that is finetuned is held whole" : "the student too"));
}

namespace {

/// Bytes that a streamed part holds: what is outside its blocks, and two of them. `bytes` counts those of a
/// configuration.
template <class PartConfig, class Count>
double streamed_bytes(const PartConfig& config, Count bytes) {
  PartConfig without_blocks = config;
  without_blocks.num_layers = 0;
  const double all = bytes(config), outside = bytes(without_blocks);
  return outside + 2 * (all - outside) / double(config.num_layers);
}

double element_bytes(const std::string& precision) {
  return double(c10::elementSize(parse_precision(precision).dtype));
}

}  // namespace

/// Where blocks are streamed: what lies outside of them, and two.
PlanTerm StagePlanner::teacher() const {
  if (streamed_)
    return {"teacher's weights outside its blocks, and two blocks, " + precision_, teacher_bytes(precision_)};
  return {"teacher's weights, " + precision_, teacher_bytes(precision_)};
}
double StagePlanner::teacher_bytes(const std::string& precision) const {
  const auto bytes = [&](const TransformerConfig& config) {
    return parameter_bytes(config, parse_precision(precision));
  };
  return streamed_ ? streamed_bytes(model_.transformer, bytes) : bytes(model_.transformer);
}
PlanTerm StagePlanner::vae() const {
  const double bytes = config_.model.vae_precision == "bf16" ? bf16 : fp32;
  return {"VAE, " + config_.model.vae_precision, bytes * double(parameter_count(model_.vae))};
}
/// From vae_memory.h, for fp32.
PlanTerm StagePlanner::vae_features(double bytes) const {
  const double share = config_.model.vae_precision == "bf16" ? bf16 / fp32 : 1;
  return {config_.model.vae_tile > 0 ? "VAE's feature cache and activations of a tile"
                                     : "VAE's feature cache and activations of 4 frames",
          share * bytes};
}
/// A clip as fp32 pixels and, on its way to or from the file, further copies of it.
PlanTerm StagePlanner::pixels(int64_t frames, int64_t height, int64_t width) const {
  return {"pixels of a clip, fp32, three times", 3 * fp32 * 3 * double(frames * height * width)};
}
PlanTerm StagePlanner::text_encoder() const {
  const TextEncoderConfig& text = model_.text_encoder;
  const auto bytes = double(c10::elementSize(text_precision_));
  const std::string dtype = text_precision_ == at::kFloat ? "fp32" : "bf16";
  if (streamed_)
    return {"two layers of the text encoder, " + dtype,
            streamed_bytes(text, [&](const TextEncoderConfig& config) {  // of the table, the rows of a prompt
              return bytes * double(parameter_count(config) - config.vocab_size * config.d_model);
            })};
  return {"text encoder, " + dtype, bytes * double(parameter_count(text))};
}

/// The prompts are embedded first and the text encoder is let go: of the two phases the larger one counts.
std::vector<PlanTerm> StagePlanner::after_text(std::vector<PlanTerm> terms) const {
  double bytes = 0;
  for (const PlanTerm& term : terms) bytes += term.bytes;
  PlanTerm before = text_encoder();
  if (before.bytes <= bytes) return terms;
  before.name += " (released before the rest is loaded)";
  return {before};
}

/// A student's, to generate with or to write down. Finetuned ones are whole, others stream as the teacher.
PlanTerm StagePlanner::student_weights(const std::string& precision) const {
  const double phi = element_bytes(precision) * double(converted_ * 2 * feature_map_parameters(phi_));
  if (streamed_ && checkpoints_ == 0)
    return {"student's weights outside its blocks, two blocks, and feature maps, " + precision,
            teacher_bytes(precision) + phi};
  return {"student's weights, " + precision,
          parameter_bytes(model_.transformer, parse_precision(precision)) + phi};
}

/// Activations of one forward without gradient: of a block about 8 tensors [N, dim] and 2 [N, ffn] at once.
double StagePlanner::forward_work(const CostGeometry& g, int64_t batch, double bytes) const {
  return double(batch) * double(g.tokens) * bytes * (8 * double(g.dim) + 2 * double(g.ffn_dim));
}

/// FLOPs: (count + held_out) * steps * branches * forward. Disk: steps + 1 latents in bf16 and the text rows
/// in fp32.
PlanStage StagePlanner::trajectories() const {
  const TrajectorySection& t = config_.trajectories;
  const CostGeometry g = geometry(t);
  PlanStage stage{.name = "trajectories", .unit = "prompts", .units = t.count + t.held_out};
  stage.clip = {t.frames, t.height, t.width};
  stage.parallel = stage.units;
  stage.memory = after_text(
      {teacher(),
       {"activations of one forward", forward_work(g, branches(t.guidance), element_bytes(precision_))}});
  if (t.source == "live") {  // made inside distillation, once for every unit of blocks
    stage.units = 0;
    return stage;
  }
  const double text = text_encoder_flops(model_.text_encoder, model_.text_tokens);
  stage.flops = double(stage.units) * (double(t.steps * branches(t.guidance)) * transformer_flops(g) + text);
  const double latents = bf16 * latent_elements(model_.vae, t.frames, t.height, t.width);
  stage.disk = {{"latents of every step, bf16", double(stage.units) * double(t.steps + 1) * latents},
                {"text rows, fp32 (at most)",
                 double(stage.units) * 3 * fp32 * double(model_.text_tokens * model_.transformer.text_dim)}};
  return stage;
}

/// A unit replays the teacher up to its last block for every cached step: FLOPs of a replay = forward * (last
/// + 1) / B. Updates: U per group and rate, each 3 * linear term (forward and backward) on the group's
/// samples. Held-out: one replay and one linear term. Memory of a block's sample: q, k, v, y and R softmax
/// parts, [N, F] each, fp32.
PlanStage StagePlanner::distill() const {
  const TrajectorySection& t = config_.trajectories;
  const DistillSection& d = config_.distill;
  const CostGeometry g = geometry(t);
  const int64_t per_unit =
      d.blocks_per_unit > 0 ? std::min(d.blocks_per_unit, g.blocks) : ceil_div(g.blocks, ranks_);
  PlanStage stage{
      .name = "distill", .unit = "blocks", .units = g.blocks, .parallel = ceil_div(g.blocks, per_unit)};

  stage.clip = {t.frames, t.height, t.width};
  const int64_t n = branches(t.guidance),
                group = d.group_timesteps > 0 ? std::min(d.group_timesteps, t.steps) : t.steps;
  const double replays =
      double(t.count * d.epochs * t.steps + t.held_out * std::min(d.held_out_timesteps, t.steps)) * double(n);
  double depth = 0;  // forwards that one replay of every unit amounts to
  for (int64_t first = 0; first < g.blocks; first += per_unit)
    depth += double(std::min(first + per_unit, g.blocks)) / double(g.blocks);
  double linear = 0;
  for (const Rate rate : rates_) linear += linear_flops(g, phi_, rate);
  const double updates = double(t.count * d.epochs * t.steps * n * d.updates_per_group);
  const double measured = double(t.held_out * std::min(d.held_out_timesteps, t.steps) * n);
  stage.flops = replays * depth * transformer_flops(g) + double(g.blocks) * linear * (3 * updates + measured);
  if (t.source == "live")
    stage.flops += double(stage.parallel) * double((t.count * d.epochs + t.held_out) * t.steps * n) *
                   transformer_flops(g);

  const double plane = double(g.tokens) * double(g.heads * g.head_dim),
               rows = double(g.tokens) * double(g.heads);
  const double sample = fp32 * (plane * double(4 + rates_.size()) + 2 * rows * double(rates_.size()));
  const double phi = double(rates_.size()) * 2 * double(feature_map_parameters(phi_));
  stage.memory = {teacher()};
  stage.memory.push_back({"activations of one forward", forward_work(g, n, element_bytes(precision_))});
  stage.memory.push_back(
      {fmt::format("q, k, v, y and softmax parts of {} samples of {} blocks", group * n, per_unit),
       sample * double(group * n) * double(per_unit)});
  stage.memory.push_back({"joining one block's samples", sample * double(group * n)});
  stage.memory.push_back({"feature maps and AdamW's state", 4 * fp32 * phi * double(per_unit)});
  stage.disk = {{"feature maps and AdamW's state of every rate, fp32", 3 * fp32 * phi * double(g.blocks)},
                {"curves", 8 * double(rates_.size() * g.blocks) * updates / double(group * n)}};
  return stage;
}

/// VAE and text encoder, once a clip; the teacher was let go. Shards: latents and text rows in bf16.
PlanStage StagePlanner::encode() const {
  const std::vector<ClipShape> shapes = clip_shapes(config_.data);
  const ClipShape most = largest(shapes, [](const ClipShape& c) { return std::pair(c.height * c.width, c); });
  PlanStage stage{.name = "encode", .unit = "clips", .units = encodes_own(config_.data) ? clips_ : 0};
  stage.clip = {most.frames, most.height, most.width};
  stage.parallel = std::max<int64_t>(1, stage.units);
  const double clips = double(stage.units);
  stage.flops =
      clips *
      (mean(shapes,
            [&](const ClipShape& c) { return vae_encode_flops(model_.vae, c.frames, c.height, c.width); }) +
       text_encoder_flops(model_.text_encoder, model_.text_tokens));
  stage.memory = {text_encoder(), vae()};
  stage.memory.push_back(vae_features(
      vae_encode_memory(model_.vae, most.frames, most.height, most.width, vae_tiling(config_.model), fp32)));
  stage.memory.push_back(pixels(most.frames, most.height, most.width));
  const double latents = mean(
      shapes, [&](const ClipShape& c) { return latent_elements(model_.vae, c.frames, c.height, c.width); });
  stage.disk = {
      {"latents, bf16", clips * bf16 * latents},
      {"text rows, bf16 (at most)", clips * bf16 * double(model_.text_tokens * model_.transformer.text_dim)}};
  if (holds_latents(config_.data.videos)) {  // encoded already; a shard is gathered in memory, and joined
    constexpr double kSamples = 256;
    stage.flops = 0;
    stage.memory = {
        {"two copies of a tar shard's 256 samples, bf16",
         2 * kSamples * bf16 * (latents + double(model_.text_tokens * model_.transformer.text_dim))}};
  }
  return stage;
}

/// Of the student's parameters, those outside its blocks.
double StagePlanner::outside_share() const {
  TransformerConfig outside = model_.transformer;
  outside.num_layers = 0;
  return double(parameter_count(outside)) / double(student_parameters());
}

/// Of the frozen parts only the teacher is needed, and only with teacher_weight.
/// A step: 3 student forwards for every clip of the global batch (forward and backward), one more for the
/// blocks that are recomputed, and one of the teacher with teacher_weight. Kept for backward in a block:
/// about 22 tensors [N, dim] and 2 [N, ffn]. A checkpoint holds masters and AdamW's moments in fp32; the
/// milestones stay, the newest, and one that is being written.
PlanStage StagePlanner::finetune() const {
  const FinetuneSection& f = config_.finetune;
  const std::vector<ClipShape> shapes = clip_shapes(config_.data);
  const ClipShape most =
      largest(shapes, [&](const ClipShape& c) { return std::pair(geometry(c).tokens, c); });
  const CostGeometry g = geometry(most);
  PlanStage stage{.name = "finetune", .unit = "steps", .units = f.iterations};
  stage.clip = {most.frames, most.height, most.width};
  stage.parallel = f.global_batch;  // clips of a step
  const double clip = mean(shapes, [&](const ClipShape& c) {
    const CostGeometry of = geometry(c);
    const double again = f.recompute > 0 ? double(ceil_div(of.blocks, f.recompute)) / double(of.blocks) : 0;
    return (3 + again) * student_flops(of) + (f.teacher_weight > 0 ? transformer_flops(of) : 0);
  });
  stage.flops = double(f.iterations * f.global_batch) * clip;
  if (f.iterations == 0) return stage;

  const double all = double(student_parameters()), bytes = element_bytes(f.precision);
  const double all_weights = parameter_bytes(model_.transformer, parse_precision(f.precision)) +
                             bytes * double(converted_ * 2 * feature_map_parameters(phi_));
  // From here on, of those that are trained.
  const double parameters = double(trained_parameters()), weights = all_weights * parameters / all;
  const double averages = f.ema > 0 ? fp32 * parameters : 0;
  const double state = 3 * fp32 * parameters + averages;  // of the optimizer, masters in it: a checkpoint
  // Parameters that are fp32 are their own masters.
  const double masters = bytes < fp32 ? fp32 * (fp32 * parameters - weights) / (fp32 - bytes) : 0;
  const Sharding sharding = parse_sharding(config_.data.sharding);
  const double share = sharding == Sharding::none ? 1 : 1 / double(ranks_);
  const std::string of_all =
      sharding == Sharding::none ? "" : fmt::format(", a rank's {:.3g} %", 100 * share);
  if (f.teacher_weight > 0) stage.memory.push_back(teacher());
  const bool shared = f.teacher_weight > 0 && !streamed_ && element_bytes(precision_) == bytes;
  if (parameters < all && !shared)
    stage.memory.push_back(
        {fmt::format("student's weights that are not trained, {}", f.precision), all_weights - weights});
  if (sharding == Sharding::parameters && ranks_ > 1) {
    const double outside = outside_share(), block = (1 - outside) / double(g.blocks);
    stage.memory.push_back({fmt::format("student's weights, {}{}", f.precision, of_all), weights * share});
    stage.memory.push_back({"weights that are whole at once: outside the blocks, and two blocks",
                            weights * (outside + 2 * block)});
    stage.memory.push_back({"gradients, fp32" + of_all, fp32 * parameters * share});
    stage.memory.push_back({"gradients that are whole at once: of two blocks, or of what is outside them",
                            fp32 * parameters * std::max(2 * block, outside)});
  } else {
    stage.memory.push_back({fmt::format("student's weights, {}", f.precision), weights});
    stage.memory.push_back({"gradients, fp32", fp32 * parameters});
  }
  const bool gpu = config_.model.device == "cuda";
  if (f.optimizer_device == "host" && gpu) {
    stage.host_memory.push_back({"masters, moments and averages, fp32" + of_all, state * share});
  } else {
    if (masters > 0) stage.memory.push_back({"master weights, fp32" + of_all, masters * share});
    stage.memory.push_back({"AdamW's moments, fp32" + of_all, 2 * fp32 * parameters * share});
    if (averages > 0) stage.memory.push_back({"averaged weights, fp32" + of_all, averages * share});
  }
  if (saves_behind(f))
    (gpu ? stage.host_memory : stage.memory)
        .push_back({"copy of the training state while it is written (finetune.save_behind)",
                    state / double(ranks_)});
  // Of a 16-bit block the norms and gated sums keep fp32 copies.
  const double tokens = double(f.micro_batch) * double(g.tokens);
  const double kept =
      tokens * ((bytes < fp32 ? 58 : 22 * fp32) * double(g.dim) + bytes * 2 * double(g.ffn_dim));
  const int64_t again = f.recompute > 0 ? ceil_div(g.blocks, f.recompute) : 0;
  stage.memory.push_back({"activations kept for backward", kept * double(g.blocks - again)});
  if (again > 0)
    stage.memory.push_back({fmt::format("inputs of {} recomputed blocks, and one block's activations", again),
                            double(again) * tokens * fp32 * double(g.dim) + kept});
  if (f.validation_clips > 0)
    stage.memory.push_back({"latents and text rows of the validation clips, fp32",
                            fp32 * double(ceil_div(f.validation_clips, ranks_)) *
                                (latent_elements(model_.vae, most.frames, most.height, most.width) +
                                 double(model_.text_tokens * model_.transformer.text_dim))});
  stage.disk = {{fmt::format("{} checkpoints and two newer, fp32 with AdamW's moments", checkpoints_),
                 double(checkpoints_ + 2) * state}};
  return stage;
}

/// The finished folder: transformer in bf16, the other parts as the teacher's files.
PlanStage StagePlanner::model() const {
  PlanStage stage{.name = "model", .unit = "folders", .units = 1};
  stage.memory = {student_weights("fp32")};
  stage.disk = {{"transformer, bf16", bf16 * double(student_parameters())},
                {"VAE, fp32", fp32 * double(parameter_count(model_.vae))},
                {"text encoder, fp32", fp32 * double(parameter_count(model_.text_encoder))}};
  return stage;
}

/// Clips of the teacher, of the distilled student, and of every finetuning checkpoint, from the same noise:
/// steps * branches forwards and one VAE decoding each. A mp4 is taken as 0.1 bit a pixel.
PlanStage StagePlanner::generate() const {
  const GenerateSection& e = config_.generate;
  const CostGeometry g = geometry(e);
  const int64_t clips = clips_generated_, students = students_;
  PlanStage stage{.name = "generate", .unit = "clips", .units = clips * (1 + students)};
  stage.clip = {e.frames, e.height, e.width};
  stage.parallel = std::max<int64_t>(1, clips);
  const double forwards = double(e.steps * branches(e.guidance));
  stage.flops = double(clips) * forwards * (transformer_flops(g) + double(students) * student_flops(g)) +
                double(stage.units) * vae_decode_flops(model_.vae, e.frames, e.height, e.width);
  stage.memory = {student_weights(precision_), vae()};  // the largest of the models, one at a time
  // A clip is decoded when its last forward is done: the larger of the two counts.
  const PlanTerm forward{"activations of one forward",
                         forward_work(g, branches(e.guidance), element_bytes(precision_))};
  const PlanTerm features = vae_features(
      vae_decode_memory(model_.vae, e.frames, e.height, e.width, vae_tiling(config_.model), fp32));
  const PlanTerm clip = pixels(e.frames, e.height, e.width);
  if (forward.bytes > features.bytes + clip.bytes)
    stage.memory.push_back(forward);
  else
    stage.memory.insert(stage.memory.end(), {features, clip});
  stage.memory = after_text(std::move(stage.memory));
  stage.disk = {{"latents, fp32",
                 double(stage.units) * fp32 * latent_elements(model_.vae, e.frames, e.height, e.width)},
                {"videos (estimate)", double(stage.units) * double(e.frames * e.height * e.width) * 0.1 / 8}};
  return stage;
}

/// Every generated clip is decoded once more.
PlanStage StagePlanner::evaluate() const {
  const GenerateSection& e = config_.generate;
  PlanStage stage = file("evaluate");
  stage.clip = {e.frames, e.height, e.width};
  stage.parallel = std::max<int64_t>(1, clips_generated_);
  stage.flops =
      double(clips_generated_ * (1 + students_)) * vae_decode_flops(model_.vae, e.frames, e.height, e.width);
  return stage;
}

PlanStage StagePlanner::file(const std::string& name) const {
  return {.name = name, .unit = "file", .units = 1};
}

std::vector<PlanStage> plan_stages(const Config& config, const ModelSizes& model, const PlanMachine& machine,
                                   std::vector<std::string>& notes) {
  const StagePlanner planner(config, model, machine, notes);
  std::vector<PlanStage> stages{planner.trajectories(), planner.distill(),  planner.file("tables"),
                                planner.file("select"), planner.encode(),   planner.finetune(),
                                planner.model(),        planner.generate(), planner.evaluate(),
                                planner.file("report")};
  if (config.model.device == "cuda") return stages;  // what a rank's device holds
  constexpr double kProgram = 120 << 20;             // measured
  for (PlanStage& stage : stages)
    if (!stage.memory.empty()) stage.memory.push_back({"the program with LibTorch and MPI", kProgram});
  return stages;
}

}  // namespace surgery
