// What of a plan does not fit its machine, and what would.
#include <algorithm>

#include "base/errors.h"
#include "parallel/bucket_layout.h"
#include "recipe/config_table.h"
#include "recipe/data_section.h"
#include "recipe/plan_stages.h"

namespace surgery {
namespace {

const PlanTerm& largest(const std::vector<PlanTerm>& terms) {
  return *std::ranges::max_element(terms, {}, &PlanTerm::bytes);
}

/// By how many bytes a stage exceeds what a rank has, on its device and on its host.
double excess(const PlanStage& stage, const PlanMachine& machine) {
  const auto beyond = [](double bytes, double there) { return there > 0 ? std::max(0.0, bytes - there) : 0; };
  return beyond(stage.memory_bytes(), machine.memory_bytes) +
         beyond(stage.host_memory_bytes(), machine.host_bytes);
}

/// An option that makes a stage smaller, and values to try: the least change first, memory falls.
struct Remedy {
  std::string key;
  std::vector<std::string> values;
};

Remedy smaller(const std::string& key, int64_t now, int64_t step = 1) {
  Remedy remedy{key, {}};
  for (int64_t value = now - step; value > 0; value -= step) remedy.values.push_back(std::to_string(value));
  return remedy;
}

/// Shorter or smaller training clips: the option's next values, or buckets without the largest ones.
Remedy smaller_clips(const DataSection& data, const std::string& key, int64_t now, int64_t step) {
  if (data.buckets.empty()) return smaller("data." + key, now, step);
  std::vector<ClipShape> shapes = clip_shapes(data);
  std::ranges::sort(shapes, std::greater(), [&](const ClipShape& c) {
    return std::pair(c.height * c.width * (key == "frames" ? c.frames : 1), c);
  });
  Remedy remedy{"data.buckets", {}};
  while (shapes.size() > 1) {
    shapes.erase(shapes.begin());
    std::string left;
    for (const ClipShape& shape : shapes) left += (left.empty() ? "" : ",") + to_string(shape);
    remedy.values.push_back(left);
  }
  return remedy;
}

/// Tiles of the usual size, where there are none.
Remedy vae_tiles(const Config& config) {
  return config.model.vae_tile > 0 ? Remedy{"", {}} : Remedy{"model.vae_tile", {"256"}};
}

/// The shardings that share out more.
Remedy sharing(Config config, int64_t ranks) {
  Remedy remedy{"data.sharding", {}};
  const auto now = static_cast<size_t>(parse_sharding(config.data.sharding));
  for (size_t i = now + 1; i < sharding_names().size() && ranks > 1; ++i) {
    config.data.sharding = sharding_names()[i];
    if (batch_fault(config, ranks).empty()) remedy.values.push_back(config.data.sharding);
  }
  return remedy;
}

/// Twice as many blocks each time, at last all.
Remedy recomputing(const FinetuneSection& finetune, int64_t blocks) {
  Remedy remedy{"finetune.recompute", {}};
  for (int64_t every = finetune.recompute > 0 ? finetune.recompute / 2 : blocks / 2; every > 0; every /= 2)
    remedy.values.push_back(std::to_string(every));
  return remedy;
}

Remedy other_optimizer_device(const Config& config) {
  if (config.model.device != "cuda") return {"", {}};
  return {"finetune.optimizer_device", {config.finetune.optimizer_device == "host" ? "model" : "host"}};
}

/// What costs the result least comes first, shorter clips last.
std::vector<Remedy> stage_remedies(const PlanStage& stage, const Config& config, const Plan& plan) {
  if (stage.name == "trajectories" || stage.name == "generate")
    return {stage.name == "generate" ? vae_tiles(config) : Remedy{"", {}},
            smaller(stage.name + ".frames", stage.clip.front(), 4)};
  if (stage.name == "distill") {
    const int64_t blocks = plan.model.transformer.num_layers, unit = config.distill.blocks_per_unit,
                  steps = config.trajectories.steps, group = config.distill.group_timesteps;
    return {smaller("distill.blocks_per_unit", unit > 0 ? std::min(unit, blocks) : blocks),
            smaller("distill.group_timesteps", group > 0 ? std::min(group, steps) : steps),
            smaller("trajectories.frames", stage.clip.front(), 4)};
  }
  if (stage.name == "finetune") {
    Remedy micro = smaller("finetune.micro_batch", config.finetune.micro_batch);
    std::erase_if(micro.values, [&](const std::string& value) {
      return config.finetune.global_batch % std::stoll(value) != 0;
    });
    return {config.finetune.save_behind ? Remedy{"finetune.save_behind", {"no"}} : Remedy{"", {}},
            sharing(config, plan.machine.ranks),
            micro,
            recomputing(config.finetune, plan.model.transformer.num_layers),
            other_optimizer_device(config),
            {"finetune.precision", {"bf16-diffusers"}},
            smaller_clips(config.data, "frames", stage.clip.front(), 4)};
  }
  if (stage.name == "encode")
    return {vae_tiles(config), smaller_clips(config.data, "height", stage.clip[1], 16)};
  return {};
}

std::vector<Remedy> remedies(const PlanStage& stage, const Config& config, const Plan& plan) {
  std::vector<Remedy> all = stage_remedies(stage, config, plan);
  if (config.model.stream != "yes") all.insert(all.begin(), {"model.stream", {"yes"}});
  return all;
}

const PlanStage& stage_named(const std::vector<PlanStage>& stages, const std::string& name) {
  return *std::ranges::find(stages, name, &PlanStage::name);
}

PlanStage with_option(const std::string& stage, Config& config, const Plan& plan, const std::string& key,
                      const std::string& value) {
  const std::string fault = set_option(config, *find_option(key), value);
  EXPECT(fault.empty());
  std::vector<std::string> ignored;
  return stage_named(plan_stages(config, plan.model, plan.machine, ignored), stage);
}

/// The first of a remedy's values with which the stage fits; none does: empty.
std::string fitting_value(const PlanStage& stage, Config& config, const Plan& plan, const Remedy& remedy) {
  const auto value = std::ranges::partition_point(remedy.values, [&](const std::string& tried) {
    return excess(with_option(stage.name, config, plan, remedy.key, tried), plan.machine) > 0;
  });
  return value == remedy.values.end() ? "" : *value;
}

/// "it fits with --data.frames=33"; `options` are in the configuration, the last of them with this value.
std::string it_fits(const PlanStage& stage, Config& config, const Plan& plan, const std::string& options,
                    const Remedy& remedy, const std::string& value) {
  std::string text = fmt::format("it fits with{} --{}={}", options, remedy.key, value);
  const std::string all = options + remedy.key;
  if (all.find("vae_tile") != std::string::npos || all.find("precision") != std::string::npos)
    text += " (tiles and bf16 change the result a little)";
  const PlanStage changed = with_option(stage.name, config, plan, remedy.key, value);
  if (changed.flops > 1.05 * stage.flops)
    text += fmt::format(" ({:.1f} times its FLOPs)", changed.flops / stage.flops);
  return text;
}

/// Options with which the stage fits: one alone that leaves the clips as they are, else one after the other.
std::string what_would_fit(const PlanStage& stage, Config config, const Plan& plan) {
  const std::vector<Remedy> all = remedies(stage, config, plan);
  for (const Remedy& remedy : all) {
    if (remedy.key.ends_with("frames") || remedy.key.ends_with("height") || remedy.key == "data.buckets")
      continue;
    Config alone = config;
    if (const std::string value = fitting_value(stage, alone, plan, remedy); !value.empty())
      return it_fits(stage, alone, plan, "", remedy, value);
  }
  std::string options;
  double before = excess(stage, plan.machine);
  for (const Remedy& remedy : all) {
    if (remedy.values.empty()) continue;
    const std::string kept = get_option(config, *find_option(remedy.key));
    if (const std::string value = fitting_value(stage, config, plan, remedy); !value.empty())
      return it_fits(stage, config, plan, options, remedy, value);
    const double now =
        excess(with_option(stage.name, config, plan, remedy.key, remedy.values.back()), plan.machine);
    if (now < before) {
      before = now;
      options += fmt::format(" --{}={}", remedy.key, remedy.values.back());
    } else {
      set_option(config, *find_option(remedy.key), kept);
    }
  }
  return options.empty() ? "it needs more memory a rank"
                         : fmt::format("it does not fit even with{}: it needs more memory a rank", options);
}

std::string memory_fault(const PlanStage& stage, const Plan& plan, const Config& config) {
  std::string text = stage.name;
  const auto add = [&](const char* what, const std::vector<PlanTerm>& terms, double bytes, double there) {
    if (there == 0 || bytes <= there) return;
    const PlanTerm& term = largest(terms);
    text += fmt::format(" needs {} of {} a rank, {} are there; the largest term: {}, {};", bytes_text(bytes),
                        what, bytes_text(there), term.name, bytes_text(term.bytes));
  };
  add("memory", stage.memory, stage.memory_bytes(), plan.machine.memory_bytes);
  add("the host's memory", stage.host_memory, stage.host_memory_bytes(), plan.machine.host_bytes);
  return text + " " + what_would_fit(stage, config, plan);
}

std::string disk_fault(const Plan& plan) {
  std::vector<PlanTerm> all;
  for (const PlanStage& stage : plan.stages)
    for (const PlanTerm& term : stage.disk)
      all.push_back({stage.name + ": " + term.name, stage.left() * term.bytes});
  const PlanTerm& term = largest(all);
  return fmt::format("the run needs {} more on disk, {} are free; the largest term: {}, {}",
                     bytes_text(plan.disk_bytes_left()), bytes_text(plan.machine.disk_bytes), term.name,
                     bytes_text(term.bytes));
}

}  // namespace

std::vector<std::string> plan_faults(const Plan& plan, const Config& config) {
  std::vector<std::string> faults;
  const PlanMachine& machine = plan.machine;
  if (const std::string fault = batch_fault(config, machine.ranks); !fault.empty()) faults.push_back(fault);
  for (const PlanStage& stage : plan.stages)
    if (stage.units > 0 && stage.left() > 0 && excess(stage, machine) > 0)
      faults.push_back(memory_fault(stage, plan, config));
  if (machine.disk_bytes > 0 && plan.disk_bytes_left() > machine.disk_bytes)
    faults.push_back(disk_fault(plan));
  return faults;
}

}  // namespace surgery
