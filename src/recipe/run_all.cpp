#include "base/errors.h"
#include "base/log.h"
#include "data/video.h"
#include "data/video_tars.h"
#include "data/web_dataset.h"
#include "parallel/agreed_error.h"
#include "parallel/stop.h"
#include "recipe/clip_set.h"
#include "recipe/data_section.h"
#include "recipe/encode_web_dataset.h"
#include "recipe/finetune_origin.h"
#include "recipe/model_parts.h"
#include "recipe/recipe.h"
#include "recipe/run_status.h"
#include "recipe/sample_set.h"
#include "recipe/trained_subset.h"

namespace surgery {
namespace {

/// What late stages need is looked at before hours of work, not after them. Rank 0 speaks for all.
void check_inputs(Recipe& recipe) {
  const Config& config = recipe.config;
  if (const std::string fault = batch_fault(config, recipe.session.size()); !fault.empty())
    throw AgreedError(ExitCode::usage, fault);
  if (recipe.session.rank() == 0) {
    for (const ModelPart part : {ModelPart::transformer, ModelPart::vae, ModelPart::text_encoder})
      require_part(part, required_place(config.model, part));
    tokenizer_content(required_tokenizer_place(config.model));
    check_selection(recipe);
    check_trained(config.finetune.train, recipe.teacher_config());
    check_resume(config, recipe.run);
    check_given_noise(recipe);
    recipe.negative_prompt(config.trajectories.negative_prompt);
    recipe.negative_prompt(config.generate.negative_prompt);
    const bool latents = holds_latents(config.data.videos);  // not videos
    const bool encodes = encodes_own(config.data);
    if (encodes && latents) check_web_dataset(config);
    if (encodes && !latents && !video_supported() && !std::filesystem::exists(recipe.run.data() / "latents"))
      fail_usage(
          "data.videos = {}: this build reads and writes no video (SURGERY_VIDEO is off): give data.shards "
          "of another build, or configure with -DSURGERY_VIDEO=ON",
          config.data.videos);
    // Drawn clips need no look, and those of tar shards are known once they are unpacked.
    const bool listed = !config.data.videos.starts_with("shapes:") && !is_web_dataset(config.data.videos);
    if (encodes && listed) check_clips(config);
  }
  recipe.session.world().barrier();
}

void tell_what_is_there(Recipe& recipe) {
  if (recipe.session.rank() != 0) return;
  const auto stages = run_status(recipe.config, recipe.teacher_config().num_layers);
  const std::string there = existing_text(stages), missing = missing_text(stages);
  log_info("there: {}", there.empty() ? "nothing" : there);
  log_info("missing: {}", missing.empty() ? "nothing" : missing);
}

}  // namespace

bool make_everything(Recipe& recipe) {
  check_inputs(recipe);
  tell_what_is_there(recipe);
  const auto stages = {make_trajectories, make_distillation, make_tables,  make_selection,  make_latents,
                       make_finetuning,   make_model,        make_samples, make_evaluation, make_report};
  for (const auto& stage : stages) {
    // Every rank sees the same answer: a stage's stop is agreed inside it.
    if (!stage(recipe)) return false;
    if (agree_on_stop(recipe.session.world(), recipe.stop_requested())) return false;
  }
  return true;
}

}  // namespace surgery
