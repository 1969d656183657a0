#include "recipe/plan.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/errors.h"
#include "recipe/model_parts.h"
#include "recipe/plan_stages.h"

namespace surgery {
namespace {

/// Of one quantity (a member, or a member function) over all items.
template <class Item, class Quantity>
double sum(const std::vector<Item>& items, Quantity quantity) {
  double total = 0;
  for (const Item& item : items) total += std::invoke(quantity, item);
  return total;
}

/// Seconds: the slowest rank's share, since pieces are not divided; hours: of the ranks that are lent
/// meanwhile.
void add_time(PlanStage& stage, const PlanMachine& machine) {
  const int64_t rounds = (stage.parallel + machine.ranks - 1) / machine.ranks;
  const double share = double(rounds) / double(std::max<int64_t>(1, stage.parallel));
  stage.seconds = stage.flops * share / machine.flops_per_second;
  stage.device_hours = stage.seconds * double(machine.ranks) / 3600;
}

}  // namespace

double PlanStage::memory_bytes() const {
  return sum(memory, &PlanTerm::bytes);
}
double PlanStage::host_memory_bytes() const {
  return sum(host_memory, &PlanTerm::bytes);
}
double PlanStage::disk_bytes() const {
  return sum(disk, &PlanTerm::bytes);
}

double PlanStage::left() const {
  return found ? found->left() : 1;
}

double Plan::flops() const {
  return sum(stages, &PlanStage::flops);
}
double Plan::disk_bytes() const {
  return sum(stages, &PlanStage::disk_bytes);
}
double Plan::seconds() const {
  return sum(stages, &PlanStage::seconds);
}
double Plan::device_hours() const {
  return sum(stages, &PlanStage::device_hours);
}

double Plan::seconds_left() const {
  return sum(stages, [](const PlanStage& stage) { return stage.left() * stage.seconds; });
}
double Plan::device_hours_left() const {
  return sum(stages, [](const PlanStage& stage) { return stage.left() * stage.device_hours; });
}

double Plan::disk_bytes_left() const {
  return sum(stages, [](const PlanStage& stage) { return stage.left() * stage.disk_bytes(); });
}

ModelSizes read_model_sizes(const ModelSection& model) {
  ModelSection where = model;
  if (where.path.empty()) where.path = model.config;
  const auto transformer = part_place(where, ModelPart::transformer);
  if (transformer.empty())
    fail_usage(
        "neither model.path nor model.config is set (the model's sizes are unknown): give "
        "--model.config=configs/models/wan2.1-t2v-1.3b, or another folder that holds "
        "transformer/config.json");
  ModelSizes sizes;
  sizes.folder = where.path.empty() ? transformer : std::filesystem::path(where.path);
  sizes.transformer = Transformer::read_config(transformer);
  const auto is_there = [](ModelPart part, const std::filesystem::path& place) {
    return !place.empty() &&
           (!config_alone(part, place).empty() ||
            (!std::filesystem::is_directory(place / to_string(part)) && find_part(part, place)));
  };
  if (const auto place = part_place(where, ModelPart::vae); is_there(ModelPart::vae, place))
    sizes.vae = Vae::read_config(place);
  if (const auto place = part_place(where, ModelPart::text_encoder); is_there(ModelPart::text_encoder, place))
    sizes.text_encoder = TextEncoder::read_config(place);
  if (const auto place = tokenizer_place(where);
      !place.empty() && std::filesystem::exists(find_tokenizer(place) / "tokenizer_config.json"))
    sizes.text_tokens = tokenizer_max_length(place);
  return sizes;
}

CostGeometry cost_geometry(const TransformerConfig& t, int64_t text_tokens, int64_t frames, int64_t height,
                           int64_t width) {
  CostGeometry g;
  g.tokens = video_tokens(frames, height, width);
  g.text_tokens = text_tokens;
  g.heads = t.num_attention_heads;
  g.head_dim = t.attention_head_dim;
  g.dim = t.dim();
  g.ffn_dim = t.ffn_dim;
  g.blocks = t.num_layers;
  g.in_channels = t.in_channels;
  g.out_channels = t.out_channels;
  g.patch = 1;
  for (const int64_t size : t.patch_size) g.patch *= size;
  g.text_dim = t.text_dim;
  g.freq_dim = t.freq_dim;
  return g;
}

Plan make_plan(const Config& config, const ModelSizes& model, const PlanMachine& machine) {
  EXPECT(machine.ranks > 0 && machine.flops_per_second > 0);
  Plan plan;
  plan.machine = machine;
  plan.model = model;
  plan.stages = plan_stages(config, model, machine, plan.notes);
  for (PlanStage& stage : plan.stages) add_time(stage, machine);
  const int64_t units = plan.stages[1].parallel;
  if (machine.ranks > units)
    plan.notes.push_back(
        fmt::format("distillation has {} units of blocks: {} of {} ranks will wait meanwhile", units,
                    machine.ranks - units, machine.ranks));
  plan.notes.push_back(
      "communication, reading and writing are not in the seconds; activations are estimates");
  plan.faults = plan_faults(plan, config);
  return plan;
}

void count_existing(Plan& plan, const Config& config) {
  const auto found = run_status(config, plan.model.transformer.num_layers);
  for (PlanStage& stage : plan.stages)
    for (const StageStatus& status : found)
      if (status.stage == stage.name) stage.found = status;
  plan.missing = missing_text(found);
  plan.faults = plan_faults(plan, config);
}

}  // namespace surgery
