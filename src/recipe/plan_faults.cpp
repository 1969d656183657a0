// What of a plan does not fit its machine, and what would.
#include <algorithm>

#include "base/errors.h"
#include "recipe/config_table.h"
#include "recipe/plan_stages.h"

namespace surgery {
namespace {

constexpr double GiB = 1024.0 * 1024.0 * 1024.0;

const PlanTerm& largest(const std::vector<PlanTerm>& terms) {
  return *std::ranges::max_element(terms, {}, &PlanTerm::bytes);
}

/// An option that makes a stage smaller, and values to try, the least change first.
struct Remedy {
  std::string key;
  std::vector<std::string> values;
};

/// First what leaves the result nearly alone, last shorter clips.
std::vector<Remedy> remedies(const PlanStage& stage) {
  std::vector<Remedy> list;
  if (stage.name == "distill")
    list = {{"distill.blocks_per_unit", {"1"}}, {"distill.group_timesteps", {"1"}}};
  if (stage.name == "finetune") list = {{"finetune.micro_batch", {"1"}}, {"finetune.precision", {"bf16"}}};
  if (stage.clip.empty()) return list;
  const std::string section = stage.name == "distill"                              ? "trajectories"
                              : stage.name == "finetune" || stage.name == "encode" ? "data"
                              : stage.name == "evaluate"                           ? "generate"
                                                                                   : stage.name;
  Remedy frames{section + ".frames", {}};
  for (int64_t f = stage.clip.front() - 4; f > 0; f -= 4) frames.values.push_back(std::to_string(f));
  list.push_back(frames);
  return list;
}

double memory_of(const std::string& stage, const Config& config, const Plan& plan) {
  std::vector<std::string> ignored;
  const auto stages = plan_stages(config, plan.model, plan.machine.ranks, ignored);
  return std::ranges::find(stages, stage, &PlanStage::name)->memory_bytes();
}

/// Options with which the stage fits, one after the other until it does: "data.frames=33".
std::string what_would_fit(const PlanStage& stage, Config config, const Plan& plan) {
  std::string options;
  for (const auto& [key, values] : remedies(stage)) {
    const ConfigOption& option = *find_option(key);
    const double before = memory_of(stage.name, config, plan);
    const std::string kept = get_option(config, option);
    double need = before;
    for (const std::string& value : values) {
      EXPECT(set_option(config, option, value).empty());
      need = memory_of(stage.name, config, plan);
      if (need <= plan.machine.memory_bytes)
        return fmt::format("it fits with{} --{}={}", options, key, value);
    }
    if (need < before)
      options += fmt::format(" --{}={}", key, values.back());
    else
      set_option(config, option, kept);
  }
  return "no shorter clip makes it fit: it needs ranks with more memory";
}

std::string memory_fault(const PlanStage& stage, const Plan& plan, const Config& config) {
  const PlanTerm& term = largest(stage.memory);
  return fmt::format(
      "{} needs {:.1f} GiB of memory a rank, {:.1f} GiB are there; the largest term: {}, {:.1f} GiB; {}",
      stage.name, stage.memory_bytes() / GiB, plan.machine.memory_bytes / GiB, term.name, term.bytes / GiB,
      what_would_fit(stage, config, plan));
}

std::string disk_fault(const Plan& plan) {
  std::vector<PlanTerm> all;
  for (const PlanStage& stage : plan.stages)
    for (const PlanTerm& term : stage.disk) all.push_back({stage.name + ": " + term.name, term.bytes});
  const PlanTerm& term = largest(all);
  return fmt::format(
      "the run needs {:.1f} GiB on disk, {:.1f} GiB are free; the largest term: {}, {:.1f} GiB",
      plan.disk_bytes() / GiB, plan.machine.disk_bytes / GiB, term.name, term.bytes / GiB);
}

}  // namespace

std::vector<std::string> plan_faults(const Plan& plan, const Config& config) {
  std::vector<std::string> faults;
  const PlanMachine& machine = plan.machine;
  for (const PlanStage& stage : plan.stages)
    if (machine.memory_bytes > 0 && stage.units > 0 && stage.memory_bytes() > machine.memory_bytes)
      faults.push_back(memory_fault(stage, plan, config));
  if (machine.disk_bytes > 0 && plan.disk_bytes() > machine.disk_bytes) faults.push_back(disk_fault(plan));
  return faults;
}

}  // namespace surgery
