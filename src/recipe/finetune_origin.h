#pragma once
#include <string>

#include "recipe/config.h"
#include "recipe/run_directory.h"
#include "storage/checkpoint.h"

namespace surgery {

/// Whether run.resume is a checkpoint's folder: neither auto, must nor never.
bool names_checkpoint(const std::string& resume);
/// The checkpoint that run.resume names, of another run. Error{usage} when there is none, it is this run's
/// own, or a milestone lies before it, Error{data}.
Checkpoint resume_checkpoint(const Config& config, const RunDirectory& run, CheckpointCheck check);
/// The same early: only where it will be asked for, as this run has no checkpoint of its own to go on from.
void check_resume(const Config& config, const RunDirectory& run);
/// Of what another run's checkpoint this run's finetuning started from, or will: content_hash; empty: none.
/// `start_at`: the own iteration that it goes on from, -1 = none. Error{usage} where run.resume, or its
/// absence, contradicts what the run's checkpoints started from.
std::string finetune_origin(const Config& config, const RunDirectory& run, int64_t start_at);

}  // namespace surgery
