#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/data_parallel.h"
#include "parallel/session.h"
#include "recipe/config.h"
#include "storage/checkpoint.h"
#include "storage/tensor_store.h"

namespace surgery {

// A finetuning's checkpoint is one of storage/checkpoint.h. Each rank R of P writes its part of every bucket
// to state-R-of-P.safetensors, fp32: bucket-BBB.parameter (the master where the parameter is bf16), .exp_avg,
// .exp_avg_sq and, with finetune.ema, .average, [size / P] each. The manifest's metadata holds the
// fingerprint, the number of ranks and the buckets (BucketLayout::to_json), so that any number of ranks can
// read it, under any sharding.

/// Writes checkpoints finetune/step-NNNNNN, and removes older ones but the newest two and the milestones. One
/// instance a rank; every call is collective. What fails on one rank fails on all, with that rank's words.
class FinetuneWriter {
 public:
  /// `origin`: see finetune_origin; rank 0's counts.
  FinetuneWriter(Session& session, std::filesystem::path root, std::string fingerprint, std::string origin,
                 std::vector<int64_t> milestones);
  /// Waits for the write that is under way, if any.
  ~FinetuneWriter();

  /// Copies what the checkpoint holds and writes it on a thread of its own; the one before is finished first.
  void start(const DataParallel& engine);
  /// Commits the checkpoint that is under way if all ranks have written their parts. Cheap without one.
  void poll();
  bool under_way() const;
  /// Waits until nothing is under way.
  void finish();
  /// Writes and commits at once, without a copy. Error{io}.
  void write(const DataParallel& engine);

  double exposed_seconds() const;  ///< that the calls took, summed

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The iteration to go on from: of the whole checkpoints, the newest before the first of the (ascending)
/// milestones that is missing; the last milestone when none is. Damaged checkpoints are set aside.
/// Error{usage} when one belongs to another configuration.
std::optional<int64_t> newest_finetune(const std::filesystem::path& root, const std::string& fingerprint,
                                       const std::vector<int64_t>& milestones);
/// The same of (ascending) steps whose checkpoints are whole.
std::optional<int64_t> resumable_step(const std::vector<int64_t>& whole,
                                      const std::vector<int64_t>& milestones);
/// Collective: takes parameters and optimizer state back, exactly, whoever wrote them; an average that they
/// do not keep begins as the parameters. Error{data}.
void load_finetune(const std::filesystem::path& folder, DataParallel& engine);

/// fp32 masters of one checkpoint, by name, of the trained parameters; their average where it keeps one.
/// Error{io} when it is missing, Error{data}.
TensorMap load_finetuned_parameters(const std::filesystem::path& root, int64_t iteration);
/// Hash of a checkpoint's content, from its manifest.
std::string content_hash(const Checkpoint& checkpoint);
/// The same of one of a run's; Error{io} when it is missing.
std::string finetune_checkpoint_hash(const std::filesystem::path& root, int64_t iteration);

/// Whether the training state is copied, to be written beside the next steps: a checkpoint before the last is
/// due, and finetune.save_behind.
bool saves_behind(const FinetuneSection& finetune);

/// "400,600,800,1000", those up to `iterations`, ascending; the last iteration always among them.
/// Error{usage}.
std::vector<int64_t> milestone_list(const std::string& text, int64_t iterations);

}  // namespace surgery
