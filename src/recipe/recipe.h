#pragma once
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/tensor.h"
#include "data/prompts.h"
#include "parallel/coordinator.h"
#include "parallel/session.h"
#include "parallel/stop.h"
#include "parallel/watchdog.h"
#include "recipe/config.h"
#include "recipe/run_control.h"
#include "recipe/run_directory.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

/// model.device for this rank. Error{usage} where there is none for it.
at::Device choose_device(const std::string& name, const Session& session);

/// What every stage works with: the ranks, the configuration, the run directory, and the teacher's parts,
/// loaded when first asked for. Stages are free functions `bool make_X(Recipe&)`: collective, they make what
/// is missing and return false when they stopped early on request (exit code 75).
class Recipe {
 public:
  Recipe(Session& session, Config config, std::string config_text);

  Session& session;
  const Config config;
  const RunDirectory run;
  const at::Device device;

  const Transformer& teacher();
  /// model.precision, resolved: in what the transformer computes where it is not trained.
  Precision precision() const;
  std::string precision_name() const;
  at::ScalarType text_precision() const;  ///< model.text_precision, resolved
  /// The teacher read from its files, without gradient, on the device; its blocks streamed where `streams()`,
  /// or anyhow.
  Transformer load_transformer(Precision precision, bool streamed = false);
  const TransformerConfig& teacher_config();
  const Vae& vae();
  VaeConfig vae_config();  ///< needs no weights
  const Tokenizer& tokenizer();
  const TextEncoder& text_encoder();
  bool streams();         ///< model.stream, resolved
  int64_t text_length();  ///< rows of padded text the transformer sees (model_max_length)

  /// Content hashes of the teacher's transformer (and of the precision that is not fp32, for what it gives);
  /// of its VAE; of its text encoder and tokenizer. Read once, on rank 0.
  const std::string& transformer_hash();
  const std::string& vae_hash();
  const std::string& text_hash();
  /// The last with the precision that is not fp32: what the rows of a prompt depend on.
  std::string text_rows_hash();

  /// negative_prompt (recipe/negative_prompt.h) of a setting; a file is read once.
  const std::string& negative_prompt(const std::string& setting);

  /// Rows [n, text_dim] by the text encoder, fp32, on the CPU. recipe/text_cache.h keeps them for the
  /// prompts.
  at::Tensor embed(const std::string& prompt);
  /// Lets go of a part's memory; it is loaded again when it is asked for.
  void release_teacher() { teacher_.reset(); }
  void release_vae() { vae_.reset(); }
  void release_text_encoder() { text_encoder_.reset(); }
  /// Latent shape [1, 16, T, H/8, W/8] of a clip; Error{usage} when the size does not fit VAE and patches.
  static std::vector<int64_t> latent_shape(int64_t frames, int64_t height, int64_t width);

  bool stop_requested() const;  ///< of this process: by signal, STOP file, or the end of the job's time
  RunWish wish() const;         ///< stop_requested, or the SAVE file, which rank 0 alone looks for
  void saved() const;           ///< the SAVE file has been answered
  /// Tells the watchdog that this rank makes progress, and where it is ("iteration 17").
  void progress(const std::string& where = {}) const;
  /// Progress; gives the unit of work in hand up when a stop was asked for: Error{requeue} naming `what`.
  void check_stop(std::string_view what) const;
  /// Over all ranks, its own: NCCL's between GPUs, MPI's else. Collective.
  std::unique_ptr<Communicator> communicator() const;
  /// For run_units.
  CoordinatorOptions coordinator() const { return {.watchdog = watchdog_.get()}; }
  RandomKey key(std::string_view purpose) const { return RandomKey{config.run.seed, 0}.with(purpose); }

  /// One line of metrics.jsonl, of ledger.jsonl (rank 0 writes; others are ignored). Error{io}.
  void metric(const std::string& json_line) const;
  void ledger(const std::string& json_line) const;
  /// One line of this rank's own events. Their folder must be there. Error{io}.
  void event(const std::string& json_line) const;
  /// Rank 0 alone: config.cfg becomes this run's resolved configuration.
  void keep_config() const;
  /// Makes a folder of the run on rank 0 and waits for it.
  void make_folder(const std::filesystem::path& folder) const;

 private:
  friend class StageTimer;
  std::string text_config_;
  std::unique_ptr<Watchdog> watchdog_;  ///< none without run.stall_minutes
  std::unique_ptr<RunControl> control_;
  std::optional<Transformer> teacher_;
  std::optional<TransformerConfig> teacher_config_;
  std::optional<bool> streams_;
  std::optional<Vae> vae_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<TextEncoder> text_encoder_;
  std::string transformer_hash_, vae_hash_, text_hash_;
  std::map<std::string, std::string> negative_prompts_;  ///< by setting
  /// Of names and bytes of the files that `list` gives on rank 0.
  std::string hash_files(const std::function<std::vector<std::filesystem::path>()>& list);
};

/// Times a stage. When it ends, however it ends, rank 0 appends one line to the ledger: {stage, ranks,
/// device, seconds, device_seconds, outcome (done, stopped, failed), made, reused, left}, the last three of
/// pieces of the whole job and absent where it failed. A stage that only looked and found everything is told
/// as well: its seconds were lent too, and the device_seconds of all lines add up to what the run has cost.
class StageTimer {
 public:
  /// A stage that leaves every artifact as it is (`looks`) does not make its configuration the run's.
  StageTimer(const Recipe& recipe, std::string stage, bool looks = false);
  /// Unwinding without `done` is a failure.
  ~StageTimer();
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;
  /// `left`: pieces that a stop kept from being made; 0 = the stage is done.
  void done(int64_t made, int64_t reused, int64_t left = 0);

 private:
  nlohmann::ordered_json ledger_line(const std::string& outcome) const;

  const Recipe& recipe_;
  std::string stage_;
  bool looks_;
  double start_;
  bool told_ = false;
};

/// Prompts by specification: a prompt-list file, or "shapes:SPLIT" (train, distill, evaluation).
std::vector<Prompt> recipe_prompts(const std::string& specification, int64_t count,
                                   const std::string& option);

/// Throws what selection would throw whatever the errors turn out to be: a budget or pins that cannot be met.
void check_selection(Recipe& recipe);

// ---- the stages, in the order of the data's way
bool make_trajectories(Recipe& recipe);
bool make_distillation(Recipe& recipe);
bool make_tables(Recipe& recipe);
bool make_selection(Recipe& recipe);
bool make_latents(Recipe& recipe);  ///< encode: the finetuning set's latent shards
bool make_finetuning(Recipe& recipe);
bool make_model(Recipe& recipe);
bool make_samples(Recipe& recipe);
/// No stage of `run`: the teacher's clips of [generate] as latent shards in `output` (empty: RUN/synthetic).
/// Made by way of the teacher's sample files, so that a kill costs a clip and not the 64 of a shard.
/// Error{usage} where other shards are there.
bool make_synthetic_set(Recipe& recipe, const std::filesystem::path& output);
bool make_evaluation(Recipe& recipe);
bool make_report(Recipe& recipe);
/// All of them.
bool make_everything(Recipe& recipe);

}  // namespace surgery
