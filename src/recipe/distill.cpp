// Stage 2: every block learns its feature maps alone, all rates from one pass; sharded by groups of blocks.
#include <algorithm>
#include <numeric>

#include "base/errors.h"
#include "base/log.h"
#include "parallel/coordinator.h"
#include "recipe/artifact.h"
#include "recipe/distill_set.h"
#include "recipe/distiller.h"
#include "recipe/trajectory_set.h"

namespace surgery {
namespace {

// Groups of cached steps that one update averages over; each group spans the noise levels.
std::vector<std::vector<int64_t>> step_groups(int64_t steps, int64_t group_size) {
  const int64_t size = group_size <= 0 ? steps : std::min(group_size, steps);
  const int64_t groups = (steps + size - 1) / size;
  std::vector<std::vector<int64_t>> result(static_cast<size_t>(groups));
  for (int64_t s = 0; s < steps; ++s) result[static_cast<size_t>(s % groups)].push_back(s);
  return result;
}

std::vector<int64_t> held_out_steps(int64_t steps, int64_t wanted) {
  const int64_t count = wanted <= 0 ? steps : std::min(wanted, steps);
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) result.push_back((2 * i + 1) * steps / (2 * count));
  return result;
}

struct Work {
  Recipe& recipe;
  std::vector<Prompt> prompts;
  DistillPlan plan;
  std::string fingerprint;

  Trajectory trajectory(int64_t index) const {
    const Prompt& prompt = prompts[static_cast<size_t>(index)];
    if (recipe.config.trajectories.source == "live") return run_teacher(recipe, prompt, index);
    const auto path = recipe.run.trajectory(index);
    require_file(path, "cache");
    Trajectory trajectory = read_trajectory(path);
    require_fingerprint(path, trajectory.fingerprint, trajectory_fingerprint_of(recipe, prompt, index));
    return trajectory;
  }
  bool both_branches() const { return recipe.config.trajectories.guidance > 1; }
  /// Groups of one trajectory, and of all training.
  int64_t groups() const {
    return static_cast<int64_t>(
        step_groups(recipe.config.trajectories.steps, recipe.config.distill.group_timesteps).size());
  }
  int64_t training() const {
    return recipe.config.trajectories.count * recipe.config.distill.epochs * groups();
  }
};

BlockState load_or_start(const Work& work, int64_t block) {
  const auto path = work.recipe.run.block(block);
  if (std::filesystem::exists(path)) {
    BlockState state = read_block(path);
    for (RateState& rate : state.rates)
      for (at::Tensor* t : {&rate.parameters, &rate.exp_avg, &rate.exp_avg_sq})
        *t = t->to(work.recipe.device);
    return state;
  }
  BlockState state = initial_block(block, work.plan, work.recipe.key("distill"), work.recipe.device);
  state.fingerprint = work.fingerprint;
  return state;
}

// Feeds one unit's blocks: groups of training timesteps from each block's cursor on, then the held-out ones.
void distill_blocks(const Work& work, const std::vector<int64_t>& blocks) {
  Recipe& recipe = work.recipe;
  const int64_t text_length = recipe.text_length();
  std::map<int64_t, BlockState> states;
  for (const int64_t b : blocks) states.emplace(b, load_or_start(work, b));
  const auto commit = [&] {
    for (auto& [b, state] : states) write_block(recipe.run.block(b), state);
  };
  int64_t begin = work.training();
  for (const auto& [b, state] : states) begin = std::min(begin, state.cursor);
  const RandomKey key = recipe.key("distill-rows");
  const std::string name = fmt::format("distillation of blocks {}-{}", blocks.front(), blocks.back());
  const auto steps = step_groups(recipe.config.trajectories.steps, recipe.config.distill.group_timesteps);
  const int64_t groups = work.groups();
  std::optional<Trajectory> trajectory;
  for (int64_t at = begin; at < work.training(); ++at) {
    if (!trajectory || at % groups == 0) try {
        trajectory = work.trajectory(at / groups % recipe.config.trajectories.count);
      } catch (...) {  // a stop while the teacher runs, too
        if (at > begin) commit();
        throw;
      }
    std::vector<int64_t> active;
    for (const auto& [b, state] : states)
      if (state.cursor == at) active.push_back(b);
    auto samples = capture(recipe.teacher(), *trajectory, steps[static_cast<size_t>(at % groups)], active,
                           work.plan, text_length, work.both_branches());
    for (const int64_t b : active) {
      update_block(states.at(b), samples.at(b), work.plan, key.with(static_cast<uint64_t>(b)));
      samples.erase(b);
      states.at(b).cursor = at + 1;
    }
    recipe.progress(name);
    const bool stop = recipe.stop_requested();
    if (stop || at + 1 == work.training() || (at + 1) % (recipe.config.distill.commit_every * groups) == 0)
      commit();
    if (stop) recipe.check_stop(name);
  }
  for (auto& [b, state] : states) {  // a retry may have found them half made
    state.teacher_scale.clear();
    for (RateState& rate : state.rates) rate.held_out.clear();
  }
  for (int64_t h = 0; h < recipe.config.trajectories.held_out; ++h) {
    const Trajectory held_out = work.trajectory(recipe.config.trajectories.count + h);
    for (const int64_t step :
         held_out_steps(held_out.timesteps.size(0), recipe.config.distill.held_out_timesteps)) {
      recipe.check_stop(name);
      auto samples =
          capture(recipe.teacher(), held_out, {step}, blocks, work.plan, text_length, work.both_branches());
      for (auto& [b, state] : states) measure_block(state, samples.at(b), work.plan);
    }
  }
  for (auto& [b, state] : states) state.done = true;
  commit();
  log_line("info", fmt::format("distilled blocks {}-{}", blocks.front(), blocks.back()));
}

}  // namespace

DistillPlan recipe_distill_plan(Recipe& recipe) {
  const Config& config = recipe.config;
  const int64_t groups =
      static_cast<int64_t>(step_groups(config.trajectories.steps, config.distill.group_timesteps).size());
  const int64_t updates =
      config.trajectories.count * config.distill.epochs * groups * config.distill.updates_per_group;
  return distill_plan(config.distill, recipe.teacher_config(), updates);
}

std::string distill_fingerprint(Recipe& recipe) {
  const DistillSection& d = recipe.config.distill;
  std::vector<std::string> parts{
      "distill-2",
      fmt::format("{} {} {} {} {} {} {} {}", d.rates, d.phi_degree, d.phi_layers, d.phi_output_activation,
                  d.phi_last_bias, d.stabilizer, d.loss, d.linear_branch),
      fmt::format("{} {} {} {} {} {} {} {} {}", d.learning_rate, d.schedule, d.weight_decay,
                  d.group_timesteps, d.updates_per_group, d.epochs, d.held_out_timesteps, d.attention_rows,
                  recipe.config.trajectories.count)};
  const auto prompts = trajectory_prompts(recipe.config);
  for (size_t i = 0; i < prompts.size(); ++i)
    parts.push_back(trajectory_fingerprint_of(recipe, prompts[i], static_cast<int64_t>(i)));
  return make_fingerprint(parts);
}

BlockState read_distilled(const Recipe& recipe, int64_t block, const std::string& expected) {
  const auto path = recipe.run.block(block);
  require_file(path, "distill");
  BlockState state = read_block(path);
  require_fingerprint(path, state.fingerprint, expected);
  if (!state.done) fail_io("{}: block {} is not fully distilled: run 'distill' first", path.string(), block);
  return state;
}

bool make_distillation(Recipe& recipe) {
  StageTimer timer(recipe, "distill");
  recipe.make_folder(recipe.run.distill());
  Work work{recipe, trajectory_prompts(recipe.config), recipe_distill_plan(recipe),
            distill_fingerprint(recipe)};
  const int64_t blocks = recipe.teacher_config().num_layers;
  const std::vector<int64_t> missing = missing_units(recipe, blocks, [&](int64_t b) {
    bool done = false;
    const ArtifactState state =
        check_artifact(recipe.run, recipe.run.block(b), work.fingerprint, [&](const auto& path) {
          const BlockState found = read_block(path);
          done = found.done;
          return found.fingerprint;
        });
    return done ? state : ArtifactState::missing;
  });
  // The grouping is free: a block's samples do not depend on its neighbours in a unit.
  const int64_t wanted =
      recipe.config.distill.blocks_per_unit > 0
          ? recipe.config.distill.blocks_per_unit
          : (static_cast<int64_t>(missing.size()) + recipe.session.size() - 1) / recipe.session.size();
  std::vector<std::vector<int64_t>> groups;
  for (const int64_t b : missing) {
    if (groups.empty() || static_cast<int64_t>(groups.back().size()) >= std::max<int64_t>(1, wanted))
      groups.emplace_back();
    groups.back().push_back(b);
  }
  std::vector<WorkUnit> units;
  for (const auto& group : groups)
    units.push_back({fmt::format("distillation of blocks {}-{}", group.front(), group.back()),
                     static_cast<double>(group.back() + 1 + 4 * static_cast<int64_t>(group.size()))});
  std::vector<int64_t> live(recipe.config.trajectories.source == "live" ? work.prompts.size() : 0);
  std::iota(live.begin(), live.end(), 0);
  if (!units.empty() && !live.empty() && !prepare_trajectory_text(recipe, live)) {
    timer.done(0, blocks - std::ssize(missing), std::ssize(missing));
    return false;
  }
  if (!units.empty()) recipe.teacher();
  const auto units_left = run_units(
      recipe.session, units, [&](size_t u) { distill_blocks(work, groups[u]); },
      [&] { return recipe.stop_requested(); }, recipe.coordinator());
  int64_t left = 0;  // blocks; what a unit that was stopped has learned is kept in them
  for (const size_t u : units_left) left += std::ssize(groups[u]);
  recipe.release_teacher();  // encoding comes next
  timer.done(std::ssize(missing) - left, blocks - std::ssize(missing), left);
  return left == 0;
}

}  // namespace surgery
