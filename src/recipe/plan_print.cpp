// A plan as text and as JSON.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "recipe/component_cost.h"
#include "recipe/plan.h"

namespace surgery {
namespace {

std::string flops_text(double flops) {
  const char* units[] = {"", "K", "M", "G", "T", "P", "E", "Z"};
  size_t i = 0;
  while (flops >= 1000 && i < 7) flops /= 1000, ++i;
  return fmt::format("{:.1f} {}FLOP", flops, units[i]);
}

std::string time_text(double seconds) {
  if (seconds < 120) return fmt::format("{:.1f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.1f} min", seconds / 60);
  return seconds < 172800 ? fmt::format("{:.1f} h", seconds / 3600)
                          : fmt::format("{:.1f} days", seconds / 86400);
}

/// "81 x 480 x 832"; empty where a stage works on no clips.
std::string clip_text(const PlanStage& stage) {
  return fmt::format("{}", fmt::join(stage.clip, " x "));
}

void add_terms(std::string& text, const std::string& title, const PlanStage& stage,
               const std::vector<PlanTerm>& terms, double total) {
  if (terms.empty()) return;
  text += fmt::format("  {:<14}{:<62}{:>12}\n", stage.name, title, bytes_text(total));
  for (const PlanTerm& term : terms)
    text += fmt::format("  {:<14}  {:<60}{:>12}\n", "", term.name, bytes_text(term.bytes));
}

nlohmann::ordered_json terms_json(const std::vector<PlanTerm>& terms) {
  auto json = nlohmann::ordered_json::array();
  for (const PlanTerm& term : terms) json.push_back({{"name", term.name}, {"bytes", term.bytes}});
  return json;
}

}  // namespace

std::string bytes_text(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t i = 0;
  while (bytes >= 1024 && i < 5) bytes /= 1024, ++i;
  return fmt::format("{:.{}f} {}", bytes, i == 0 ? 0 : 1, units[i]);
}

std::string plan_text(const Plan& plan) {
  const TransformerConfig& t = plan.model.transformer;
  std::string text =
      fmt::format("model {}: {} blocks, {} heads of {}, {:.1f} M parameters; text of {} tokens\n",
                  plan.model.folder.string(), t.num_layers, t.num_attention_heads, t.attention_head_dim,
                  double(parameter_count(t)) / 1e6, plan.model.text_tokens);
  text += fmt::format("{} rank{}, {}/s each ({})\n\n", plan.machine.ranks, plan.machine.ranks == 1 ? "" : "s",
                      flops_text(plan.machine.flops_per_second), plan.machine.rate_origin);
  text += fmt::format("  {:<14}{:>16}{:>17}{:>16}{:>14}{:>12}{:>13}{:>13}{:>13}\n", "stage", "work",
                      "clips of", "exists", "FLOPs", "time", "device-hours", "memory/rank", "disk");
  for (const PlanStage& stage : plan.stages)
    text += fmt::format("  {:<14}{:>16}{:>17}{:>16}{:>14}{:>12}{:>13.2f}{:>13}{:>13}\n", stage.name,
                        fmt::format("{} {}", stage.units, stage.unit), clip_text(stage),
                        stage.found ? stage.found->count() : "-", flops_text(stage.flops),
                        time_text(stage.seconds), stage.device_hours, bytes_text(stage.memory_bytes()),
                        bytes_text(stage.disk_bytes()));
  text += fmt::format("  {:<14}{:>16}{:>17}{:>16}{:>14}{:>12}{:>13.2f}{:>13}{:>13}\n", "all", "", "", "",
                      flops_text(plan.flops()), time_text(plan.seconds()), plan.device_hours(), "",
                      bytes_text(plan.disk_bytes()));
  text += "  clips: frames x height x width, by trajectories.*, data.* and generate.*\n";
  if (plan.missing && plan.seconds_left() < plan.seconds())
    text += fmt::format(
        "  left to make: {}, {:.2f} device-hours; the rest is there or in run.base (told by names)\n",
        time_text(plan.seconds_left()), plan.device_hours_left());
  if (plan.missing)
    text += plan.missing->empty()
                ? "\nnothing is missing\n"
                : "\nmissing: " + *plan.missing + "\n'surgery run' with this configuration makes it\n";
  text += "\nmemory of one rank\n";
  for (const PlanStage& stage : plan.stages)
    add_terms(text, clip_text(stage), stage, stage.memory, stage.memory_bytes());
  const auto on_host = [](const PlanStage& stage) { return !stage.host_memory.empty(); };
  if (std::ranges::any_of(plan.stages, on_host)) text += "\nmemory of one rank on its host, beside its GPU\n";
  for (const PlanStage& stage : plan.stages)
    add_terms(text, "", stage, stage.host_memory, stage.host_memory_bytes());
  text += "\ndisk\n";
  for (const PlanStage& stage : plan.stages) add_terms(text, "", stage, stage.disk, stage.disk_bytes());
  text += "\n";
  for (const std::string& note : plan.notes) text += "note: " + note + "\n";
  return text;
}

nlohmann::ordered_json plan_json(const Plan& plan) {
  nlohmann::ordered_json json{{"model", plan.model.folder.string()},
                              {"parameters", parameter_count(plan.model.transformer)},
                              {"ranks", plan.machine.ranks},
                              {"flops_per_second", plan.machine.flops_per_second},
                              {"rate_origin", plan.machine.rate_origin},
                              {"flops", plan.flops()},
                              {"seconds", plan.seconds()},
                              {"device_hours", plan.device_hours()},
                              {"seconds_left", plan.seconds_left()},
                              {"device_hours_left", plan.device_hours_left()},
                              {"disk_bytes", plan.disk_bytes()},
                              {"stages", nlohmann::ordered_json::array()},
                              {"notes", plan.notes},
                              {"faults", plan.faults}};
  if (plan.missing) json["missing"] = *plan.missing;
  for (const PlanStage& stage : plan.stages) {
    nlohmann::ordered_json one{{"name", stage.name},
                               {"unit", stage.unit},
                               {"units", stage.units},
                               {"clip", stage.clip},
                               {"exists", nullptr},
                               {"in_base", nullptr},
                               {"wanted", nullptr},
                               {"flops", stage.flops},
                               {"seconds", stage.seconds},
                               {"device_hours", stage.device_hours},
                               {"memory_bytes", stage.memory_bytes()},
                               {"memory", terms_json(stage.memory)},
                               {"host_memory_bytes", stage.host_memory_bytes()},
                               {"host_memory", terms_json(stage.host_memory)},
                               {"disk_bytes", stage.disk_bytes()},
                               {"disk", terms_json(stage.disk)}};
    if (stage.found) one["exists"] = stage.found->exists;
    if (stage.found) one["in_base"] = stage.found->in_base;
    if (stage.found && stage.found->wanted) one["wanted"] = *stage.found->wanted;
    json["stages"].push_back(one);
  }
  return json;
}

}  // namespace surgery
