#include <unistd.h>

#include <cmath>

#include "app/bench.h"
#include "attention/cost_model.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/random.h"
#include "base/statistics.h"
#include "parallel/data_parallel.h"
#include "parallel/local_communicator.h"
#include "recipe/component_cost.h"
#include "recipe/engine_hooks.h"
#include "recipe/finetune_checkpoint.h"

namespace surgery {
namespace {

constexpr double kRate = 1e-4;
constexpr int64_t kAmortised = 50;  // steps between checkpoints
constexpr int64_t kCompared = 3;    // steps whose losses are compared with one rank's

using MakeCommunicator = std::function<std::unique_ptr<Communicator>()>;

/// Flow matching on random latents: what finetuning does in a step, without its data and files.
class Training {
 public:
  Training(const BenchOptions& options, Sharding sharding, const MakeCommunicator& communicator)
      : options_(options),
        ranks_(communicator()),
        model_(Transformer::random(options.transformer, RandomKey{2024, 4})),
        engine_(communicator(), communicator(), model_.parameter_groups(),
                {.sharding = sharding, .adamw = {.learning_rate = kRate}}) {
    model_.hooks = engine_hooks(engine_, options.transformer.num_layers);
  }

  /// Those of a step's clips that are this rank's, one after the other.
  void step() {
    const int rank = ranks_->rank(), size = ranks_->size();
    ranks_->barrier();
    const double start = steady_seconds(), exposed = engine_.exposed_seconds(),
                 communication = engine_.communication_seconds(), sent = engine_.sent_bytes();
    const ClipShape& clip = options_.clip;
    engine_.zero();
    double sum = 0;
    for (int64_t i = rank; i < options_.clips; i += size) {
      const RandomKey sample =
          RandomKey{2024, 5}.with(static_cast<uint64_t>(engine_.steps())).with(static_cast<uint64_t>(i));
      const at::Tensor x = random_normal(sample.with("x"),
                                         {1, options_.transformer.in_channels, (clip.frames - 1) / 4 + 1,
                                          clip.height / 8, clip.width / 8}),
                       text = random_normal(sample.with("text"), {1, 32, options_.transformer.text_dim});
      engine_.begin_micro_step(i + size >= options_.clips);
      const at::Tensor loss = at::mse_loss(model_.forward(x, at::full({1}, 500.0), text), x);
      sum += loss.item<double>() / static_cast<double>(options_.clips);
      (loss * (static_cast<double>(size) / static_cast<double>(options_.clips))).backward();
    }
    engine_.finish(1);
    engine_.update(kRate);
    losses.push_back(ranks_->all_reduce_value(sum, Reduction::sum));
    seconds.push_back(steady_seconds() - start);
    exposed_seconds.push_back(engine_.exposed_seconds() - exposed);
    communication_seconds.push_back(engine_.communication_seconds() - communication);
    sent_bytes.push_back(engine_.sent_bytes() - sent);
  }
  /// From the third step on: the first ones warm caches and allocator up.
  static double typical(const std::vector<double>& values) {
    return median({values.begin() + std::min<std::ptrdiff_t>(2, std::ssize(values) - 1), values.end()});
  }
  DataParallel& engine() { return engine_; }

  std::vector<double> losses, seconds, exposed_seconds, communication_seconds, sent_bytes;  // by step

 private:
  const BenchOptions& options_;
  std::unique_ptr<Communicator> ranks_;
  Transformer model_;
  DataParallel engine_;
};

struct SaveCost {
  double exposed = 0;  ///< the calls, and what the steps beside the writing took longer
  double steps = 0;    ///< beside which it was written
};

/// A checkpoint behind the steps of a training that has a typical step already.
SaveCost save(Training& training, Session& session, const std::filesystem::path& folder) {
  const double typical = Training::typical(training.seconds);
  FinetuneWriter writer(session, folder, "bench", "", {});
  SaveCost cost;
  training.engine().settle();
  writer.start(training.engine());
  while (writer.under_way()) {
    training.step();
    cost.exposed += training.seconds.back() - typical;
    cost.steps += 1;
    training.engine().settle();
    writer.poll();
  }
  cost.exposed = std::max(0.0, cost.exposed) + writer.exposed_seconds();
  return cost;
}

double largest_difference(const std::vector<double>& losses, const std::vector<double>& expected) {
  double difference = 0;
  for (size_t i = 0; i < std::min(losses.size(), expected.size()); ++i)
    difference = std::max(difference, std::abs(losses[i] / expected[i] - 1));
  return difference;
}

}  // namespace

BenchTable bench_finetune(const BenchOptions& options, Session& session) {
  if (options.clips % session.size() != 0)
    fail_usage("bench finetune: {} clips are not the same number on each of {} ranks: give --clips",
               options.clips, session.size());
  const MakeCommunicator among_ranks = [&] { return session.duplicate(); };
  std::vector<std::unique_ptr<Training>> trainings;
  for (const std::string& name : options.shardings)
    trainings.push_back(std::make_unique<Training>(options, parse_sharding(name), among_ranks));
  const int64_t steps = options.repetitions + 2;
  for (int64_t i = 0; i < steps; ++i)
    for (auto& training : trainings) training->step();
  Training& first = *trainings.front();
  std::string folder = (options.folder / fmt::format("surgery-bench-{}", ::getpid())).string();
  folder = session.world().broadcast_text(folder, 0);
  const SaveCost saved = save(first, session, folder);
  std::vector<double> alone;
  if (session.rank() == 0) {
    std::filesystem::remove_all(folder);
    Training one(options, Sharding::none, [] { return make_local_communicator(); });
    for (int64_t i = 0; i < kCompared; ++i) one.step();
    alone = one.losses;
  }
  session.world().barrier();
  if (session.rank() != 0) return {};
  const double step = Training::typical(first.seconds), exposed = Training::typical(first.exposed_seconds);
  const auto parameters = static_cast<double>(parameter_count(options.transformer));
  const auto row = [&](const std::string& sharding, const Training& training) {
    const double own = Training::typical(training.exposed_seconds), all = Training::typical(training.seconds);
    BenchRow result{.name = "step, data.sharding = " + sharding, .seconds = all};
    if (&training != &first) {
      result.peer = "data.sharding = " + options.shardings.front();
      result.peer_seconds = step;
      result.goal = sharding == "optimizer" ? 1 / 1.05 : 1 / 1.3;
    }
    result.note = fmt::format(
        "{:.1f} % waits for other ranks, {:.1f} bytes sent a parameter; losses of {} steps within {:.1e} "
        "of one rank's",
        100 * own / all, Training::typical(training.sent_bytes) / parameters, kCompared,
        largest_difference(training.losses, alone));
    return result;
  };
  const TransformerConfig& t = options.transformer;
  BenchTable table{
      fmt::format("finetuning, {} blocks of width {}, {} tokens, {} clips a step over {} ranks; medians "
                  "of {} steps in turn",
                  t.num_layers, t.dim(),
                  video_tokens(options.clip.frames, options.clip.height, options.clip.width), options.clips,
                  session.size(), options.repetitions),
      {}};
  for (size_t i = 0; i < trainings.size(); ++i)
    table.rows.push_back(row(options.shardings[i], *trainings[i]));
  table.rows.push_back({.name = "communication, launch to end",
                        .seconds = Training::typical(first.communication_seconds),
                        .note = "summed over buckets"});
  table.rows.push_back({.name = "of it not hidden by backward",
                        .seconds = exposed,
                        .limit = 0.1 * step,
                        .note = "waiting for slower ranks is in it"});
  table.rows.push_back(
      {.name = "checkpoint beside the steps",
       .seconds = saved.exposed,
       .limit = 0.05 * kAmortised * step,
       .note = fmt::format("{:.1f} % of {} steps; written beside {} of them",
                           100 * saved.exposed / (kAmortised * step), kAmortised, saved.steps)});
  return table;
}

}  // namespace surgery
