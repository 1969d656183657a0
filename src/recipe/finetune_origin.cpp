#include "recipe/finetune_origin.h"

#include "base/errors.h"
#include "recipe/finetune_checkpoint.h"

namespace surgery {

namespace fs = std::filesystem;

bool names_checkpoint(const std::string& resume) {
  return resume != "auto" && resume != "must" && resume != "never";
}

Checkpoint resume_checkpoint(const Config& config, const RunDirectory& run, CheckpointCheck check) {
  const std::string& resume = config.run.resume;
  std::error_code error;
  const fs::path folder = fs::canonical(resume, error);
  if (error || !fs::is_directory(folder, error))
    fail_usage(
        "run.resume={}: is neither auto, must nor never, nor the folder of a finetuning's checkpoint "
        "(OTHER/finetune/step-000400)",
        resume);
  if (fs::equivalent(folder.parent_path(), run.finetune(), error))
    fail_usage(
        "run.resume={}: is this run's own, and a run goes on from its newest by itself: to go back, move the "
        "later ones away",
        resume);
  Checkpoint checkpoint = open_checkpoint(folder, check);
  const int64_t first = milestone_list(config.finetune.checkpoints, config.finetune.iterations).front();
  if (first <= checkpoint.step)
    fail_usage(
        "run.resume={}: is of iteration {}, but iteration {} is to be made (finetune.checkpoints, "
        "finetune.iterations): name later ones",
        resume, checkpoint.step, first);
  return checkpoint;
}

void check_resume(const Config& config, const RunDirectory& run) {
  const FinetuneSection& f = config.finetune;
  if (f.iterations == 0 || !names_checkpoint(config.run.resume) ||
      resumable_step(checkpoint_steps(run.finetune()), milestone_list(f.checkpoints, f.iterations)))
    return;
  resume_checkpoint(config, run, CheckpointCheck::sizes);
}

std::string finetune_origin(const Config& config, const RunDirectory& run, int64_t start_at) {
  const std::string& resume = config.run.resume;
  const bool named = names_checkpoint(resume);
  const std::vector<int64_t> steps = checkpoint_steps(run.finetune());
  const auto recorded = [&](int64_t step) {
    return open_checkpoint(checkpoint_folder(run.finetune(), step), CheckpointCheck::sizes)
        .metadata.value("origin", "");
  };
  std::string origin;
  if (start_at < 0) {
    if (named) origin = content_hash(resume_checkpoint(config, run, CheckpointCheck::hashes));
    if (steps.empty() || recorded(steps.back()) == origin) return origin;
  } else {
    origin = recorded(start_at);
    std::error_code error;  // by now what it started from may be gone
    if (!named || !fs::exists(resume, error) ||
        content_hash(open_checkpoint(resume, CheckpointCheck::sizes)) == origin)
      return origin;
  }
  fail_usage(
      "{}: its finetuning did not start from what run.resume={} says: give the checkpoint that it started "
      "from, or choose another run.directory",
      run.finetune().string(), resume);
}

}  // namespace surgery
