#include <chrono>
#include <cmath>

#include "app/bench.h"
#include "base/random.h"
#include "parallel/data_parallel.h"
#include "parallel/local_communicator.h"
#include "recipe/pretrain_transformer.h"

namespace surgery {
namespace {

constexpr int64_t kBatch = 8, kIterations = 12;

struct Training {
  std::vector<double> losses;
  double seconds = 0, exposed = 0, communication = 0;  ///< of one iteration, mean without the first two
};

/// Flow matching on random latents: what finetuning does in an iteration, without its data and files.
Training train(std::unique_ptr<Communicator> gradients, std::unique_ptr<Communicator> parameters) {
  const int rank = gradients->rank(), size = gradients->size();
  const TransformerConfig config = small_transformer_config();
  const RandomKey key{2024, 4};
  Transformer model = Transformer::random(config, key);
  DataParallel engine(std::move(gradients), std::move(parameters), model.parameter_groups(),
                      {.adamw = {.learning_rate = 1e-3}}, {});
  Training result;
  for (int64_t iteration = 0; iteration < kIterations; ++iteration) {
    const auto start = std::chrono::steady_clock::now();
    const double exposed = engine.exposed_seconds(), communication = engine.communication_seconds();
    engine.zero();
    double loss_sum = 0;
    for (int64_t i = rank; i < kBatch; i += size) {
      const RandomKey sample = key.with(static_cast<uint64_t>(iteration)).with(static_cast<uint64_t>(i));
      const at::Tensor x = random_normal(sample.with("x"), {1, 16, 5, 16, 20}),
                       text = random_normal(sample.with("text"), {1, 32, config.text_dim});
      engine.begin_micro_step(i + size >= kBatch);
      const at::Tensor loss = at::mse_loss(model.forward(x, at::full({1}, 500.0), text), x);
      loss_sum += loss.item<double>() / kBatch;
      (loss * (static_cast<double>(size) / kBatch)).backward();
    }
    engine.finish(1);
    engine.update(1e-3);
    result.losses.push_back(loss_sum);
    if (iteration < 2) continue;
    constexpr double share = 1.0 / (kIterations - 2);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    result.seconds += share * spent.count();
    result.exposed += share * (engine.exposed_seconds() - exposed);
    result.communication += share * (engine.communication_seconds() - communication);
  }
  return result;
}

}  // namespace

BenchTable bench_finetune(const BenchOptions&, Session& session) {
  Training together = train(session.duplicate(), session.duplicate());
  for (double& loss : together.losses) loss = session.world().all_reduce_value(loss, Reduction::sum);
  Training alone;
  if (session.rank() == 0) alone = train(make_local_communicator(), make_local_communicator());
  session.world().barrier();
  if (session.rank() != 0) return {};
  double difference = 0;
  for (size_t i = 0; i < alone.losses.size(); ++i)
    difference = std::max(difference, std::abs(together.losses[i] / alone.losses[i] - 1));
  const std::string peer = "one rank, the same global batch";
  return {
      fmt::format("finetuning, global batch {}, 10 blocks of width 128, 400 tokens; mean of {} iterations",
                  kBatch, kIterations - 2),
      {{.name = fmt::format("iteration, {} ranks", session.size()),
        .seconds = together.seconds,
        .peer = peer,
        .peer_seconds = alone.seconds,
        .note = fmt::format("losses differ by at most {:.1e} of their value", difference)},
       {.name = "communication, launch to end",
        .seconds = together.communication,
        .note = "summed over buckets"},
       {.name = "of it not hidden by backward",
        .seconds = together.exposed,
        .note = fmt::format("{:.1f} % of the iteration; waiting for slower ranks is in it",
                            100 * together.exposed / together.seconds)}}};
}

}  // namespace surgery
