// Stage 1: the teacher's runs, one file per prompt, shared by every block (design: the way of the data).
#include "base/errors.h"
#include "base/log.h"
#include "parallel/coordinator.h"
#include "recipe/artifact.h"
#include "recipe/recipe.h"
#include "recipe/sampling.h"
#include "recipe/text_cache.h"
#include "recipe/trajectory_file.h"
#include "recipe/trajectory_set.h"
#include "wan/generate.h"

namespace surgery {

std::vector<Prompt> trajectory_prompts(const Config& config) {
  const TrajectorySection& t = config.trajectories;
  const auto prompts = recipe_prompts(t.prompts, t.count + t.held_out, "trajectories.prompts");
  if (static_cast<int64_t>(prompts.size()) < t.count + t.held_out)
    fail_usage("trajectories.prompts: {} has {} prompts, but count + held_out asks for {}", t.prompts,
               prompts.size(), t.count + t.held_out);
  return prompts;
}

std::string trajectory_fingerprint_of(Recipe& recipe, const Prompt& prompt, int64_t index) {
  const TrajectorySection& t = recipe.config.trajectories;
  return make_fingerprint({"trajectory-1", recipe.transformer_hash(), recipe.text_rows_hash(), prompt.text,
                           recipe.negative_prompt(t.negative_prompt),
                           fmt::format("{} {} {}", index, recipe.config.run.seed, sampling_text(t))});
}

Trajectory run_teacher(Recipe& recipe, const Prompt& prompt, int64_t index) {
  const TrajectorySection& t = recipe.config.trajectories;
  const auto shape = recipe.latent_shape(t.frames, t.height, t.width);
  const RandomKey key = recipe.key("trajectory").with(static_cast<uint64_t>(index));
  Trajectory trajectory;
  trajectory.prompt = prompt.text;
  trajectory.fingerprint = trajectory_fingerprint_of(recipe, prompt, index);
  trajectory.text = text_rows(recipe, prompt.text);
  trajectory.negative_text = text_rows(recipe, recipe.negative_prompt(t.negative_prompt));
  const SamplingOptions options = sampling_options(t);
  std::vector<at::Tensor> latents;
  std::vector<double> timesteps;
  const auto observe = [&](const SamplingStep& step) {
    recipe.check_stop(fmt::format("trajectory {}", index));
    latents.push_back(step.latents[0].to(at::kCPU).to(at::kBFloat16));
    timesteps.push_back(step.timestep);
  };
  const auto noise = [&](int64_t step) {
    return random_normal(key.with("ancestral").with(static_cast<uint64_t>(step)), shape).to(recipe.device);
  };
  const at::Tensor final_latents =
      generate_latents(recipe.teacher(), pad_text(trajectory.text, recipe.text_length()).to(recipe.device),
                       pad_text(trajectory.negative_text, recipe.text_length()).to(recipe.device), options,
                       random_normal(key.with("initial"), shape).to(recipe.device), noise, observe);
  if (!at::isfinite(final_latents).all().item<bool>())
    fail_data(
        "trajectory of prompt {} ('{}') is not finite (the teacher's weights or the guidance are unusable): "
        "check "
        "the model",
        index, prompt.text);
  trajectory.latents = at::stack(latents);
  trajectory.timesteps = at::tensor(timesteps, at::kDouble);
  trajectory.final_latents = final_latents[0].to(at::kCPU).to(at::kBFloat16);
  return trajectory;
}

bool prepare_trajectory_text(Recipe& recipe, const std::vector<int64_t>& indices) {
  const auto prompts = trajectory_prompts(recipe.config);
  std::vector<std::string> texts{recipe.negative_prompt(recipe.config.trajectories.negative_prompt)};
  for (const int64_t i : indices) texts.push_back(prompts[static_cast<size_t>(i)].text);
  return prepare_text(recipe, texts);
}

bool make_trajectories(Recipe& recipe) {
  if (recipe.config.trajectories.source == "live") return true;  // distillation runs the teacher itself
  StageTimer timer(recipe, "trajectories");
  const auto prompts = trajectory_prompts(recipe.config);
  recipe.make_folder(recipe.run.cache());
  std::vector<std::string> fingerprints;  // on every rank: the model's hashes are a collective
  for (size_t i = 0; i < prompts.size(); ++i)
    fingerprints.push_back(trajectory_fingerprint_of(recipe, prompts[i], static_cast<int64_t>(i)));
  const std::vector<int64_t> missing =
      missing_units(recipe, static_cast<int64_t>(prompts.size()), [&](int64_t i) {
        return check_artifact(recipe.run, recipe.run.trajectory(i), fingerprints[static_cast<size_t>(i)],
                              [](const auto& path) { return trajectory_fingerprint(path); });
      });
  if (!missing.empty() && !prepare_trajectory_text(recipe, missing)) {
    timer.done(0, std::ssize(prompts) - std::ssize(missing), std::ssize(missing));
    return false;
  }
  std::vector<WorkUnit> units;
  for (const int64_t i : missing) units.push_back({fmt::format("trajectory {}", i), 1});
  const std::vector<size_t> left = run_units(
      recipe.session, units,
      [&](size_t u) {
        const int64_t i = missing[u];
        write_trajectory(recipe.run.trajectory(i), run_teacher(recipe, prompts[static_cast<size_t>(i)], i));
      },
      [&] { return recipe.stop_requested(); }, recipe.coordinator());
  timer.done(std::ssize(missing) - std::ssize(left), std::ssize(prompts) - std::ssize(missing),
             std::ssize(left));
  return left.empty();
}

}  // namespace surgery
