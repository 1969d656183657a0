#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "parallel/adamw.h"
#include "storage/tensor_store.h"

namespace surgery {

// A finetuning's checkpoint is one of storage/checkpoint.h with one file of fp32 tensors: parameter.NAME (the
// master where the parameter is bf16), exp_avg.NAME, exp_avg_sq.NAME, and step, int64 [1].

/// Commits finetune/step-NNNNNN, and removes older ones but the newest two and `milestones`. `parameters` are
/// the optimizer's own; `world` is recorded for the reader. Error{io}.
void save_finetune(const std::filesystem::path& root, const AdamW& optimizer, const AdamW::Named& parameters,
                   const std::string& fingerprint, int world, const std::vector<int64_t>& milestones);

/// The iteration to go on from: of the whole checkpoints, the newest before the first of the (ascending)
/// milestones that is missing; the last milestone when none is. Damaged checkpoints are set aside.
/// Error{usage} when one belongs to another configuration.
std::optional<int64_t> newest_finetune(const std::filesystem::path& root, const std::string& fingerprint,
                                       const std::vector<int64_t>& milestones);
/// The same of (ascending) steps whose checkpoints are whole.
std::optional<int64_t> resumable_step(const std::vector<int64_t>& whole,
                                      const std::vector<int64_t>& milestones);
/// Takes parameters and optimizer state back, exactly. Error{data}.
void load_finetune(const std::filesystem::path& root, int64_t iteration, AdamW& optimizer,
                   const AdamW::Named& parameters);

/// fp32 masters of one checkpoint, by name. Error{io} when it is missing, Error{data}.
TensorMap load_finetuned_parameters(const std::filesystem::path& root, int64_t iteration);
/// Hash of a checkpoint's content, from its manifest; Error{io} when it is missing.
std::string finetune_checkpoint_hash(const std::filesystem::path& root, int64_t iteration);

/// "400,600,800,1000", those up to `iterations`, ascending; the last iteration always among them.
/// Error{usage}.
std::vector<int64_t> milestone_list(const std::string& text, int64_t iterations);

}  // namespace surgery
