#include "recipe/distiller.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "attention/losses.h"
#include "base/errors.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
constexpr double kLeastShare = 0.05;  // of the learning rate, at the end of the cosine

// Features that are exactly zero: the student is softmax over T_S alone.
void silence(FeatureMap& map) {
  const OutputActivation activation = map.config.output_activation;
  const bool zero_at_zero = activation == OutputActivation::square || activation == OutputActivation::none;
  for (at::Tensor& w : map.weight) w.zero_();
  for (at::Tensor& b : map.bias) b.zero_();
  // softplus, exp and elu + 1 of -200 round to zero in fp32; relu gives it exactly.
  if (!zero_at_zero) map.bias.back().fill_(-200);
}

double learning_rate(const DistillPlan& plan, int64_t step) {
  if (!plan.cosine) return plan.learning_rate;
  const double done = std::min(
      1.0, static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, plan.total_updates)));
  return plan.learning_rate *
         (kLeastShare + (1 - kLeastShare) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
}

at::Tensor student(const BlockSample& sample, size_t rate, const DistillPlan& plan, const FeatureMap& phi_q,
                   const FeatureMap& phi_k, double* smallest) {
  return hybrid_from_part(sample.parts[rate], sample.q, sample.k, sample.v, phi_q, phi_k, plan.rates[rate],
                          plan.stabilizer, smallest);
}

}  // namespace

DistillPlan distill_plan(const DistillSection& config, const TransformerConfig& teacher,
                         int64_t total_updates) {
  DistillPlan plan;
  plan.rates = parse_rates(config.rates);
  std::sort(plan.rates.begin(), plan.rates.end());
  std::erase(plan.rates, Rate::full());
  if (plan.rates.empty()) fail_usage("distill.rates: no rate besides full softmax: nothing to distil");
  plan.feature_map.heads = teacher.num_attention_heads;
  plan.feature_map.head_dim = teacher.attention_head_dim;
  plan.feature_map.degree = config.phi_degree;
  plan.feature_map.layers = config.phi_layers;
  plan.feature_map.output_activation = parse_output_activation(config.phi_output_activation);
  plan.stabilizer = parse_stabilizer(config.stabilizer);
  plan.attention_loss = config.loss == "attention";
  plan.linear_branch = config.linear_branch;
  if (!plan.linear_branch && plan.rates.back().is_linear())
    fail_usage(
        "distill.linear_branch=false leaves nothing of a linear rate: take 'linear' out of distill.rates");
  plan.cosine = config.schedule == "cosine";
  plan.learning_rate = config.learning_rate;
  plan.weight_decay = config.weight_decay;
  plan.last_bias = config.phi_last_bias;
  plan.updates_per_group = config.updates_per_group;
  plan.attention_rows = config.attention_rows;
  plan.total_updates = total_updates;
  return plan;
}

std::map<int64_t, BlockSample> capture(const Transformer& teacher, const Trajectory& trajectory,
                                       const std::vector<int64_t>& steps, const std::vector<int64_t>& blocks,
                                       const DistillPlan& plan, int64_t text_length, bool both_branches) {
  const at::NoGradGuard no_grad;
  EXPECT(!steps.empty() && !blocks.empty());
  const int64_t branches = both_branches ? 2 : 1;
  std::vector<Rate> softmax_rates;
  for (const Rate rate : plan.rates)
    if (!rate.is_linear()) softmax_rates.push_back(rate);
  const bool with_max = plan.stabilizer == Stabilizer::max;

  std::map<int64_t, std::vector<BlockSample>> captured;
  const AttentionFunction attention = [&](int64_t block, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v) {
    SoftmaxPart full;
    std::vector<SoftmaxPart> parts = nested_softmax_parts(q, k, v, softmax_rates, with_max, full);
    if (std::find(blocks.begin(), blocks.end(), block) != blocks.end()) {
      if (plan.rates.back().is_linear()) parts.push_back(full);
      captured[block].push_back({q, k, v, full.output, std::move(parts)});
    }
    return full.output;
  };

  at::Tensor text = pad_text(trajectory.text, text_length);
  if (both_branches) text = at::cat({text, pad_text(trajectory.negative_text, text_length)});
  text = text.to(teacher.device(), teacher.dtype());
  const int64_t last = *std::max_element(blocks.begin(), blocks.end());
  for (const int64_t step : steps) {
    const at::Tensor x = trajectory.latents[step]
                             .to(at::kFloat)
                             .unsqueeze(0)
                             .expand({branches, -1, -1, -1, -1})
                             .contiguous()
                             .to(teacher.device());
    const at::Tensor t =
        at::full({branches}, trajectory.timesteps[step].item<double>(), at::kFloat).to(teacher.device());
    teacher.forward(x, t, text, &attention, last);
  }

  std::map<int64_t, BlockSample> result;
  for (auto& [block, list] : captured) {
    if (list.size() == 1) {
      result[block] = std::move(list[0]);
      continue;
    }
    const auto gather = [&](auto&& member) {
      std::vector<at::Tensor> tensors;
      for (const BlockSample& s : list) tensors.push_back(member(s));
      return tensors[0].defined() ? at::cat(tensors) : at::Tensor();
    };
    BlockSample all{gather([](const auto& s) { return s.q; }),
                    gather([](const auto& s) { return s.k; }),
                    gather([](const auto& s) { return s.v; }),
                    gather([](const auto& s) { return s.y; }),
                    {}};
    for (size_t r = 0; r < plan.rates.size(); ++r)
      all.parts.push_back({gather([&](const auto& s) { return s.parts[r].output; }),
                           gather([&](const auto& s) { return s.parts[r].lse; }),
                           gather([&](const auto& s) { return s.parts[r].max; })});
    list.clear();
    result[block] = std::move(all);
  }
  return result;
}

BlockState initial_block(int64_t block, const DistillPlan& plan, RandomKey key, at::Device device) {
  BlockState state;
  state.block = block;
  for (const Rate rate : plan.rates) {
    const RandomKey own = key.with(static_cast<uint64_t>(block)).with(rate.name());
    FeatureMap phi_q = FeatureMap::initial(plan.feature_map, own.with("q"), plan.last_bias);
    FeatureMap phi_k = FeatureMap::initial(plan.feature_map, own.with("k"), plan.last_bias);
    if (!plan.linear_branch) {
      silence(phi_q);
      silence(phi_k);
    }
    RateState r;
    r.rate = rate;
    r.parameters = flatten(phi_q, phi_k).detach().to(device, at::kFloat).contiguous();
    r.exp_avg = at::zeros_like(r.parameters);
    r.exp_avg_sq = at::zeros_like(r.parameters);
    state.rates.push_back(std::move(r));
  }
  return state;
}

void update_block(BlockState& state, const BlockSample& sample, const DistillPlan& plan, RandomKey key) {
  if (!plan.linear_branch) return;
  for (size_t r = 0; r < plan.rates.size(); ++r) {
    RateState& rate = state.rates[r];
    for (int64_t u = 0; u < plan.updates_per_group; ++u) {
      at::Tensor flat = rate.parameters.detach().requires_grad_(true);
      const auto [phi_q, phi_k] = unflatten(plan.feature_map, flat);
      const at::Tensor loss =
          plan.attention_loss
              ? attention_loss(sample.q, sample.k, sample.parts[r], phi_q, phi_k, plan.rates[r],
                               plan.stabilizer, plan.attention_rows,
                               key.with(static_cast<uint64_t>(rate.step)).with(rate.rate.name()))
              : value_loss(sample.y, student(sample, r, plan, phi_q, phi_k, nullptr));
      const at::Tensor gradient = torch::autograd::grad({loss}, {flat})[0];
      const double value = loss.item<double>();
      VALIDATE(std::isfinite(value) && at::isfinite(gradient).all().item<bool>(),
               "distillation of block {} at rate {} is not finite at update {}: lower distill.learning_rate "
               "or choose "
               "another distill.phi_output_activation",
               state.block, rate.rate.name(), rate.step);
      const double lr = learning_rate(plan, rate.step);
      rate.step += 1;
      at::Tensor parameters = rate.parameters.detach();
      at::_fused_adamw_({parameters}, {gradient}, {rate.exp_avg}, {rate.exp_avg_sq}, {},
                        {at::full({}, static_cast<double>(rate.step), parameters.options())}, lr, kBeta1,
                        kBeta2, plan.weight_decay, kEpsilon, false, false);
      rate.losses.push_back(value);
    }
  }
}

void measure_block(BlockState& state, const BlockSample& sample, const DistillPlan& plan) {
  const at::NoGradGuard no_grad;
  state.teacher_scale.push_back(sample.y.abs().mean().item<double>());
  for (size_t r = 0; r < plan.rates.size(); ++r) {
    RateState& rate = state.rates[r];
    const auto [phi_q, phi_k] = unflatten(plan.feature_map, rate.parameters);
    double smallest = 0;
    const at::Tensor y = student(sample, r, plan, phi_q, phi_k, &smallest);
    rate.held_out.push_back(value_loss(sample.y, y).item<double>());
    rate.smallest_normalizer =
        rate.held_out.size() == 1 ? smallest : std::min(rate.smallest_normalizer, smallest);
  }
}

}  // namespace surgery
