#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "storage/tensor_store.h"

namespace surgery {

/// fp32 masters and AdamW state of a finetuning, by parameter name.
struct FinetuneState {
  int64_t iteration = 0;  ///< updates done
  std::vector<std::string> names;
  std::vector<at::Tensor> masters, exp_avg, exp_avg_sq, steps;

  static FinetuneState start(const TensorMap& parameters);
};

/// finetune/step-000400: committed whole (manifest last). `world` is recorded for the reader.
void save_finetune(const std::filesystem::path& folder, const FinetuneState& state,
                   const std::string& fingerprint, int world);

/// The newest valid checkpoint at or below `most` iterations; damaged ones are set aside with a warning.
/// Error{usage} when it belongs to another configuration.
std::optional<FinetuneState> load_newest_finetune(const std::filesystem::path& root,
                                                  const std::string& fingerprint, int64_t most);
/// fp32 masters of one checkpoint, by name.
TensorMap load_finetuned_parameters(const std::filesystem::path& root, int64_t iteration);
/// Hash of a checkpoint's content, from its manifest; Error{io} when it is missing.
std::string finetune_checkpoint_hash(const std::filesystem::path& root, int64_t iteration);
std::vector<int64_t> finetune_checkpoints(const std::filesystem::path& root);
void remove_finetune(const std::filesystem::path& root, int64_t iteration);

/// "400,600,800,1000", those up to `iterations`, ascending; the last iteration always among them.
/// Error{usage}.
std::vector<int64_t> milestone_list(const std::string& text, int64_t iterations);

}  // namespace surgery
