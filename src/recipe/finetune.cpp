// Stage 6: data-parallel finetuning by flow matching (paper, section 3; design: definitions, Finetuning).
#include <chrono>
#include <cmath>

#include "base/errors.h"
#include "base/log.h"
#include "base/progress.h"
#include "parallel/agreed_error.h"
#include "parallel/data_parallel.h"
#include "parallel/stop.h"
#include "recipe/artifact.h"
#include "recipe/data_section.h"
#include "recipe/finetune_checkpoint.h"
#include "recipe/latent_set.h"
#include "recipe/step_ahead.h"
#include "recipe/student.h"
#include "recipe/text_cache.h"
#include "storage/checkpoint.h"
#include "wan/flow.h"

namespace surgery {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Batch {
  at::Tensor input, timestep, text, target;
};

class Trainer {
 public:
  Trainer(Recipe& recipe, Transformer student, const LatentSet& data)
      : recipe_(recipe),
        f_(recipe.config.finetune),
        student_(std::move(student)),
        data_(data),
        order_(recipe.key("finetune-order"), data.runs(), data.weights(), f_.global_batch),
        negative_(text_rows(recipe, "")),
        text_length_(recipe.text_length()),
        ahead_([this](int64_t step) { return make_batches(step); }) {
    student_.max_gradient = f_.max_gradient == "constant" ? MaxGradient::constant : MaxGradient::through;
    student_.keep_blocks();
    student_.recompute_every = f_.recompute;
    const TensorMap exact = student_.parameters();
    if (f_.precision != "fp32") student_.to(recipe.device, parse_precision(f_.precision));
    engine_ = std::make_unique<DataParallel>(
        recipe.session.duplicate(), recipe.session.duplicate(), student_.parameter_groups(),
        DataParallel::Options{.sharding = parse_sharding(recipe.config.data.sharding),
                              .adamw = {.learning_rate = f_.learning_rate,
                                        .beta1 = f_.beta1,
                                        .beta2 = f_.beta2,
                                        .weight_decay = f_.weight_decay}},
        exact);
    student_.hooks = hooks();
  }

  void load(int64_t iteration) { load_finetune(recipe_.run.finetune(), iteration, *engine_); }

  // One update over the global batch; returns its mean loss.
  double step() {
    const int world = recipe_.session.size();
    const std::vector<Batch> batches = ahead_.take(iteration(), iteration() + 1 == f_.iterations);
    engine_->zero();
    double loss_sum = 0;
    for (size_t i = 0; i < batches.size(); ++i) {
      const Batch& batch = batches[i];
      engine_->begin_micro_step(i + 1 == batches.size());
      const at::Tensor velocity = student_.forward(batch.input, batch.timestep, batch.text);
      at::Tensor loss = at::mse_loss(velocity.to(at::kFloat), batch.target.to(recipe_.device));
      const double flow = loss.item<double>();
      if (f_.teacher_weight > 0) {
        at::Tensor wanted;
        {
          const at::NoGradGuard no_grad;
          wanted = recipe_.teacher().forward(batch.input, batch.timestep, batch.text).to(at::kFloat);
        }
        loss = loss + f_.teacher_weight * at::mse_loss(velocity.to(at::kFloat), wanted);
      }
      const auto count = static_cast<double>(batch.input.size(0));
      loss_sum += flow * count;
      // The engine averages over ranks: the sum over the global batch is divided by its size.
      (loss * (count * world / static_cast<double>(f_.global_batch))).backward();
    }
    update();
    return recipe_.session.world().all_reduce_value(loss_sum, Reduction::sum) /
           static_cast<double>(f_.global_batch);
  }

  int64_t iteration() const { return engine_->steps(); }  ///< updates done
  void settle() { engine_->settle(); }
  double last_norm() const { return norm_; }
  double data_seconds() const { return ahead_.waited_seconds(); }  ///< waiting for batches, summed
  const DataParallel& engine() const { return *engine_; }

 private:
  /// A sample and where it stands in the endless order of all steps, which names its noise.
  struct Place {
    int64_t position, sample;
  };

  /// Of one step, this rank's. On the thread that reads ahead, so on the host.
  std::vector<Batch> make_batches(int64_t step) {
    const SampleOrder::Batch all = order_.at(step);
    const auto world = static_cast<size_t>(recipe_.session.size());
    std::vector<Place> mine;
    for (auto i = static_cast<size_t>(recipe_.session.rank()); i < all.samples.size(); i += world)
      mine.push_back({step * f_.global_batch + static_cast<int64_t>(i), all.samples[i]});
    std::vector<Batch> batches;
    for (size_t at = 0; at < mine.size(); at += static_cast<size_t>(f_.micro_batch)) {
      const size_t end = std::min(mine.size(), at + static_cast<size_t>(f_.micro_batch));
      batches.push_back(make_batch(std::span(mine).subspan(at, end - at)));
    }
    return batches;
  }

  Batch make_batch(std::span<const Place> places) {
    std::vector<at::Tensor> inputs, targets, texts;
    std::vector<double> timesteps;
    for (const auto& [position, index] : places) {
      const LatentSample sample = data_.sample(index);
      const RandomKey key = recipe_.key("finetune").with(static_cast<uint64_t>(position));
      RandomStream draws(key.with("draws"));
      const double u = draws.uniform();
      const bool drop = draws.uniform() < f_.text_dropout;
      const at::Tensor noise = random_normal(key.with("noise"), sample.latents.sizes());
      const FlowSample flow = flow_sample(sample.latents, noise, shifted_level(u, f_.shift));
      inputs.push_back(flow.input);
      targets.push_back(flow.target);
      timesteps.push_back(flow.timestep);
      texts.push_back(pad_text(drop ? negative_ : sample.text, text_length_));
    }
    return {at::stack(inputs), at::tensor(timesteps, at::kFloat), at::cat(texts), at::stack(targets)};
  }

  /// A block's parameters are there while it computes; the next one's come meanwhile, in either direction.
  std::shared_ptr<const GroupHooks> hooks() {
    const int64_t blocks = student_.config().num_layers;
    const auto group = [](int64_t number) { return static_cast<size_t>(number); };
    GroupHooks hooks;
    hooks.before_forward = [this, blocks, group](int64_t number) {
      engine_->need(group(number));
      const int64_t next = number == blocks ? 0 : number + 1;
      if (next < blocks) engine_->prefetch(group(next));
    };
    hooks.after_forward = [this, blocks, group](int64_t number) {
      if (number + 1 < blocks) engine_->release(group(number));  // backward begins with the last one
    };
    hooks.before_backward = [this, blocks, group](int64_t number) {
      if (number + 1 < blocks) engine_->release(group(number + 1));
      engine_->need(group(number));
      if (number > 0) engine_->prefetch(group(number - 1));
    };
    return std::make_shared<const GroupHooks>(std::move(hooks));
  }

  void update() {
    norm_ = engine_->finish(f_.gradient_clip);
    if (!std::isfinite(norm_)) refuse_gradient();
    engine_->update(f_.learning_rate);
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
  const LatentSet& data_;
  SampleOrder order_;
  at::Tensor negative_;
  int64_t text_length_;
  std::unique_ptr<DataParallel> engine_;
  double norm_ = 0;
  StepAhead<std::vector<Batch>> ahead_;  // the last: its thread uses the others
};

std::string finetune_fingerprint(Recipe& recipe, const Selection& selection, const LatentSet& data) {
  const FinetuneSection& f = recipe.config.finetune;
  return make_fingerprint(
      {"finetune-2", student_fingerprint(recipe, selection), data.fingerprint(),
       fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}", f.global_batch, f.learning_rate, f.beta1, f.beta2,
                   f.weight_decay, f.gradient_clip, f.shift, f.text_dropout, f.teacher_weight, f.max_gradient,
                   f.precision, recipe.config.run.seed)});
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
  if (!prepare_text(recipe, {""})) {  // captions that are dropped out become the empty prompt
    timer.done(0, std::max<int64_t>(0, start_at), f.iterations - std::max<int64_t>(0, start_at));
    return false;
  }
  recipe.release_vae();
  Trainer trainer(recipe, make_student(recipe, selection, at::kFloat), data);
  if (f.teacher_weight == 0) recipe.release_teacher();
  const auto steps = checkpoint_steps(recipe.run.finetune());
  const bool later = recipe.session.world().all_reduce_value(
                         !steps.empty() && steps.back() > start_at ? 1 : 0, Reduction::max) > 0;
  if (start_at >= 0) {
    trainer.load(start_at);
    log_info("finetune: continues after iteration {}", start_at);
  } else {
    log_info("finetune: starts from the distilled student ({}, {} iterations)", data.text(), f.iterations);
  }
  if (later) log_info("finetune: an earlier milestone is missing and made again; later ones are kept");
  FinetuneWriter writer(recipe.session, recipe.run.finetune(), fingerprint, milestones);
  int64_t made = 0;
  const int64_t begin = trainer.iteration();
  Progress progress("finetune", f.iterations, "iterations", begin);
  while (trainer.iteration() < f.iterations) {
    const double start = seconds();
    const double loss = trainer.step();
    const int64_t at = trainer.iteration();
    ++made;
    nlohmann::ordered_json line{{"stage", "finetune"},
                                {"iteration", at},
                                {"loss", loss},
                                {"gradient_norm", trainer.last_norm()},
                                {"seconds", seconds() - start},
                                {"exposed_communication_seconds", trainer.engine().exposed_seconds()},
                                {"communication_seconds", trainer.engine().communication_seconds()},
                                {"data_seconds", trainer.data_seconds()},
                                {"checkpoint_seconds", writer.exposed_seconds()}};
    recipe.metric(line.dump());
    progress.advance(1, fmt::format("loss {:.4f}", loss));
    recipe.progress(fmt::format("iteration {}", at));
    const bool stop = agree_on_stop(recipe.session.world(), recipe.stop_requested());
    const bool milestone = std::find(milestones.begin(), milestones.end(), at) != milestones.end();
    if (writer.under_way() || stop) trainer.settle();  // all may end here, with nothing in flight
    writer.poll();
    const bool last = stop || at == f.iterations;
    if (milestone || last || (f.save_every > 0 && at % f.save_every == 0)) {
      trainer.settle();
      if (f.save_behind && !last)
        writer.start(trainer.engine());
      else
        writer.write(trainer.engine());
    }
    // A milestone that was missing is there again: what was made beyond it before still stands.
    if (milestone && later) writer.finish();
    if (const int64_t further = milestone && later ? newest() : 0; further > at) {
      trainer.load(further);
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
