// Stage 6: data-parallel finetuning by flow matching (paper, section 3; design: definitions, Finetuning).
#include <ATen/DeviceAccelerator.h>

#include <cmath>

#include "base/clock.h"
#include "base/errors.h"
#include "base/host_memory.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/text.h"
#include "parallel/agreed_error.h"
#include "parallel/data_parallel.h"
#include "recipe/artifact.h"
#include "recipe/data_section.h"
#include "recipe/distill_set.h"
#include "recipe/engine_hooks.h"
#include "recipe/finetune_batches.h"
#include "recipe/finetune_checkpoint.h"
#include "recipe/finetune_origin.h"
#include "recipe/latent_set.h"
#include "recipe/learning_rate.h"
#include "recipe/plan.h"
#include "recipe/step_ahead.h"
#include "recipe/student.h"
#include "recipe/text_cache.h"
#include "recipe/trained_subset.h"
#include "recipe/training_work.h"

namespace surgery {
namespace {

/// Mean over all but the first dimension: a loss a clip, [B] fp32.
at::Tensor loss_by_clip(const at::Tensor& velocity, const at::Tensor& wanted) {
  const at::Tensor error = velocity.to(at::kFloat) - wanted;
  return error.square().flatten(1).mean(1);
}

class Trainer {
 public:
  Trainer(Recipe& recipe, Transformer student, const Selection& selection, const LatentSet& data)
      : recipe_(recipe),
        f_(recipe.config.finetune),
        student_(std::move(student)),
        rates_(selection.rates),
        phi_(recipe_distill_plan(recipe).feature_map),
        batches_(recipe, data),
        ahead_([this](int64_t step) { return batches_.of_step(step); }) {
    student_.max_gradient = f_.max_gradient == "constant" ? MaxGradient::constant : MaxGradient::through;
    student_.recompute_every = f_.recompute;
    const TrainedSubset subset(f_.train, rates_);
    const auto trained = [&](const std::string& name) { return subset.contains(name); };
    // Straight from the files into flat memory: of the whole student no rank need hold a copy.
    // What stays as the teacher has it needs no second copy beside a teacher that is asked in every step.
    const bool beside = f_.teacher_weight > 0 && !recipe.streams();
    const TensorMap files = student_.begin_training(recipe.device, parse_precision(f_.precision), trained,
                                                    beside ? recipe.teacher().parameters() : TensorMap());
    engine_ = std::make_unique<DataParallel>(
        recipe.communicator(), recipe.communicator(), student_.parameter_groups(trained),
        DataParallel::Options{.sharding = parse_sharding(recipe.config.data.sharding),
                              .adamw = {.learning_rate = f_.learning_rate,
                                        .beta1 = f_.beta1,
                                        .beta2 = f_.beta2,
                                        .weight_decay = f_.weight_decay,
                                        .state_device = state_device()},
                              .average_decay = f_.ema},
        [&](const std::string& name) { return files.at(name); });
    student_.hooks = engine_hooks(*engine_, student_.config().num_layers);
  }

  void load(const std::filesystem::path& checkpoint) { load_finetune(checkpoint, *engine_); }

  // One update over the global batch; returns its mean loss.
  double step() {
    const int world = recipe_.session.size();
    const std::vector<ClipBatch> batches = ahead_.take(iteration(), iteration() + 1 == f_.iterations);
    engine_->zero();
    double loss_sum = 0;
    for (size_t i = 0; i < batches.size(); ++i) {
      const ClipBatch& batch = batches[i];
      engine_->begin_micro_step(i + 1 == batches.size());
      const at::Tensor velocity = student_.forward(batch.input, batch.timestep, batch.text);
      const at::Tensor weight = batch.weight.to(recipe_.device);
      at::Tensor loss = (weight * loss_by_clip(velocity, batch.target.to(recipe_.device))).sum();
      loss_sum += loss.item<double>();
      if (f_.teacher_weight > 0) {
        at::Tensor wanted;
        {
          const at::NoGradGuard no_grad;
          wanted = recipe_.teacher().forward(batch.input, batch.timestep, batch.text).to(at::kFloat);
        }
        loss = loss + f_.teacher_weight * (weight * loss_by_clip(velocity, wanted)).sum();
      }
      // The engine averages over ranks: the sum over the global batch is divided by its size.
      (loss * (world / static_cast<double>(f_.global_batch))).backward();
    }
    if (!batches.empty()) work_ = work_of(batches.front());
    update();
    return recipe_.session.world().all_reduce_value(loss_sum, Reduction::sum) /
           static_cast<double>(f_.global_batch);
  }

  /// Mean loss of the clips that take no part in training, as the weights are now; without loss weighting.
  double validate() {
    const at::NoGradGuard no_grad;
    double sum = 0;
    for (int64_t i = 0; i < batches_.validations(); ++i) {
      const ClipBatch batch = batches_.validation(i);
      const at::Tensor velocity = student_.forward(batch.input, batch.timestep, batch.text);
      const at::Tensor loss = loss_by_clip(velocity, batch.target.to(recipe_.device));
      sum += (batch.weight.to(recipe_.device) * loss).sum().item<double>();
      recipe_.progress("validation");
    }
    engine_->release_all();
    return recipe_.session.world().all_reduce_value(sum, Reduction::sum) /
           static_cast<double>(f_.validation_clips);
  }

  int64_t iteration() const { return engine_->steps(); }  ///< updates done
  const TrainingWork& work() const { return work_; }      ///< of the last step, all ranks; known to rank 0
  void settle() { engine_->settle(); }
  double last_norm() const { return norm_; }
  double last_rate() const { return rate_; }
  double data_seconds() const { return ahead_.waited_seconds(); }  ///< waiting for batches, summed
  const DataParallel& engine() const { return *engine_; }

 private:
  std::optional<at::Device> state_device() const {
    if (f_.optimizer_device == "host" && !recipe_.device.is_cpu()) return at::Device(at::kCPU);
    return {};  // with the model, or that is on the host
  }

  /// A step's clips are all of one shape, so one batch tells of all ranks'.
  TrainingWork work_of(const ClipBatch& batch) {
    const auto latents = batch.input.sizes();
    const CostGeometry geometry = cost_geometry(student_.config(), recipe_.text_length(),
                                                4 * (latents[2] - 1) + 1, 8 * latents[3], 8 * latents[4]);
    return training_work(geometry, phi_, rates_, f_.global_batch, f_.teacher_weight > 0);
  }

  void update() {
    norm_ = engine_->finish(f_.gradient_clip);
    if (!std::isfinite(norm_)) refuse_gradient();
    rate_ =
        scheduled_rate({f_.schedule, f_.warmup, f_.final_rate}, iteration(), f_.iterations, f_.learning_rate);
    engine_->update(rate_);
  }

  /// Names the lowest rank with a bad part of the gradient, and the parameter, on every rank alike.
  [[noreturn]] void refuse_gradient() {
    const std::vector<std::string> bad = recipe_.session.world().gather_text(engine_->first_bad());
    const auto found = std::ranges::find_if(bad, [](const std::string& name) { return !name.empty(); });
    throw AgreedError(
        ExitCode::data,
        fmt::format("finetuning: the gradient of iteration {} is not finite ({}): lower "
                    "finetune.learning_rate; the last checkpoint is kept",
                    iteration() + 1,
                    found == bad.end() ? "its norm overflows"
                                       : fmt::format("{}, in rank {}'s part", *found, found - bad.begin())));
  }

  Recipe& recipe_;
  const FinetuneSection& f_;
  Transformer student_;
  std::vector<Rate> rates_;
  FeatureMapConfig phi_;
  FinetuneBatches batches_;
  std::unique_ptr<DataParallel> engine_;
  double norm_ = 0, rate_ = 0;
  TrainingWork work_;
  StepAhead<std::vector<ClipBatch>> ahead_;  // the last: its thread uses the others
};

std::string finetune_fingerprint(Recipe& recipe, const Selection& selection, const LatentSet& data) {
  const FinetuneSection& f = recipe.config.finetune;
  return make_fingerprint(
      {"finetune-3", student_fingerprint(recipe, selection), data.fingerprint(),
       fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}", f.global_batch, f.learning_rate, f.beta1, f.beta2,
                   f.weight_decay, f.gradient_clip, f.shift, f.text_dropout, f.teacher_weight, f.max_gradient,
                   f.precision, recipe.config.run.seed),
       // Only where it falls does the rate depend on how many steps there are.
       fmt::format("{} {} {} {}", f.schedule, f.warmup, f.final_rate,
                   f.schedule == "constant" ? 0 : f.iterations),
       fmt::format("{} {} {} {} {}", f.noise_levels, f.logit_mean, f.logit_std, f.mode_scale,
                   f.loss_weighting),
       fmt::format("{} {} {}", without_spaces(f.train), f.ema, f.validation_clips)});
}

/// The most bytes that LibTorch has held at once on a GPU.
int64_t peak_device_memory(at::Device device) {
  return at::accelerator::getDeviceStats(device.index()).reserved_bytes.front().peak;
}

/// finetune.train with names of this student.
void check_subset(const std::string& train, const Selection& selection, const Transformer& student) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : student.parameters()) names.push_back(name);
  TrainedSubset(train, selection.rates).check(names);
}

}  // namespace

bool make_finetuning(Recipe& recipe) {
  const FinetuneSection& f = recipe.config.finetune;
  if (f.iterations == 0) return true;
  if (const std::string fault = batch_fault(recipe.config, recipe.session.size()); !fault.empty())
    throw AgreedError(ExitCode::usage, fault);
  StageTimer timer(recipe, "finetune");
  recipe.make_folder(recipe.run.finetune());
  const Selection selection = require_selection(recipe);
  const LatentSet data = LatentSet::open(recipe);
  const std::string fingerprint = finetune_fingerprint(recipe, selection, data);
  const std::vector<int64_t> milestones = milestone_list(f.checkpoints, f.iterations);
  // Rank 0 looks for the newest checkpoint, so that every rank continues from the same. -1: none.
  const auto newest = [&] {
    int64_t step = -1;
    if (recipe.session.rank() == 0)
      step = newest_finetune(recipe.run.finetune(), fingerprint, milestones).value_or(-1);
    return static_cast<int64_t>(
        recipe.session.world().all_reduce_value(static_cast<double>(step), Reduction::max));
  };
  const int64_t start_at = newest();
  if (start_at >= f.iterations) {
    timer.done(0, f.iterations);
    return true;
  }
  const std::string origin =
      recipe.session.rank() == 0 ? finetune_origin(recipe.config, recipe.run, start_at) : "";
  if (!prepare_text(recipe, {""})) {  // captions that are dropped out become the empty prompt
    timer.done(0, std::max<int64_t>(0, start_at), f.iterations - std::max<int64_t>(0, start_at));
    return false;
  }
  recipe.release_vae();
  recipe.make_folder(recipe.run.events());
  Transformer student = make_student(recipe, selection, at::kFloat, /*streamed=*/true);
  check_subset(f.train, selection, student);
  Trainer trainer(recipe, std::move(student), selection, data);
  if (f.teacher_weight == 0) recipe.release_teacher();
  const auto steps = checkpoint_steps(recipe.run.finetune());
  const bool later = recipe.session.world().all_reduce_value(
                         !steps.empty() && steps.back() > start_at ? 1 : 0, Reduction::max) > 0;
  if (start_at >= 0) {
    trainer.load(checkpoint_folder(recipe.run.finetune(), start_at));
    log_info("finetune: continues after iteration {}", start_at);
  } else if (names_checkpoint(recipe.config.run.resume)) {
    trainer.load(recipe.config.run.resume);
    log_info("finetune: starts from {}, after iteration {}", recipe.config.run.resume, trainer.iteration());
  } else {
    log_info("finetune: starts from the distilled student ({}{}, {} iterations)", data.text(),
             f.validation_clips > 0 ? fmt::format(", {} of them withheld", f.validation_clips) : "",
             f.iterations);
  }
  if (later) log_info("finetune: an earlier milestone is missing and made again; later ones are kept");
  FinetuneWriter writer(recipe.session, recipe.run.finetune(), fingerprint, origin, milestones);
  int64_t made = 0;
  const int64_t begin = trainer.iteration();
  Progress progress("finetune", f.iterations, "iterations", begin);
  while (trainer.iteration() < f.iterations) {
    const double start = steady_seconds();
    const double loss = trainer.step();
    const int64_t at = trainer.iteration();
    ++made;
    const double step_seconds = steady_seconds() - start;
    nlohmann::ordered_json line{{"stage", "finetune"},
                                {"iteration", at},
                                {"loss", loss},
                                {"gradient_norm", trainer.last_norm()},
                                {"learning_rate", trainer.last_rate()},
                                {"seconds", step_seconds},
                                {"tokens_per_second", trainer.work().tokens / step_seconds},
                                {"tflops_per_second", trainer.work().student() / step_seconds / 1e12},
                                {"attention_share", trainer.work().attention / trainer.work().student()},
                                {"teacher_tflops_per_second", trainer.work().teacher / step_seconds / 1e12}};
    nlohmann::ordered_json own{{"exposed_communication_seconds", trainer.engine().exposed_seconds()},
                               {"communication_seconds", trainer.engine().communication_seconds()},
                               {"data_seconds", trainer.data_seconds()},
                               {"checkpoint_seconds", writer.exposed_seconds()},
                               {"peak_memory_bytes", peak_memory()}};
    if (!recipe.device.is_cpu()) own["peak_device_memory_bytes"] = peak_device_memory(recipe.device);
    line.update(own);
    if (f.validation_clips > 0 && f.validate_every > 0 && (at % f.validate_every == 0 || at == f.iterations))
      line["validation_loss"] = trainer.validate();
    recipe.metric(line.dump());
    nlohmann::ordered_json event{{"stage", "finetune"}, {"iteration", at}, {"seconds", step_seconds}};
    event.update(own);
    recipe.event(event.dump());
    progress.advance(1,
                     fmt::format("loss {:.4f}, {:.0f} tokens/s", loss, trainer.work().tokens / step_seconds));
    recipe.progress(fmt::format("iteration {}", at));
    const RunWish wish = agree_on(recipe.session.world(), recipe.wish());
    const bool stop = wish == RunWish::stop;
    const bool milestone = std::find(milestones.begin(), milestones.end(), at) != milestones.end();
    if (writer.under_way() || stop) trainer.settle();  // all may end here, with nothing in flight
    writer.poll();
    const bool last = stop || at == f.iterations;
    if (milestone || last || wish == RunWish::save || (f.save_every > 0 && at % f.save_every == 0)) {
      trainer.settle();
      if (saves_behind(f) && !last)
        writer.start(trainer.engine());
      else
        writer.write(trainer.engine());
      recipe.saved();
    }
    // A milestone that was missing is there again: what was made beyond it before still stands.
    if (milestone && later) writer.finish();
    if (const int64_t further = milestone && later ? newest() : 0; further > at) {
      trainer.load(checkpoint_folder(recipe.run.finetune(), further));
      progress.advance(further - at);
      log_info("finetune: continues after iteration {}, which was there", further);
    }
    if (stop && trainer.iteration() < f.iterations) {
      timer.done(made, trainer.iteration() - made, f.iterations - trainer.iteration());
      return false;
    }
  }
  trainer.settle();
  timer.done(made, f.iterations - made);
  return true;
}

}  // namespace surgery
