#include "parallel/adamw.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/errors.h"

namespace surgery {

AdamW::AdamW(Named parameters, AdamWOptions options) : options_(options) {
  EXPECT(!parameters.empty());
  const at::NoGradGuard no_gradient;
  std::set<std::string> names;
  for (auto& [name, tensor] : parameters) {
    EXPECT(names.insert(name).second);
    Slot slot;
    slot.name = name;
    slot.parameter = tensor.detach();  // shares the memory
    if (options.state_device)
      slot.master =
          slot.parameter.to(*options.state_device, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    else
      slot.master = slot.parameter.to(at::kFloat);
    slot.exp_avg = at::zeros_like(slot.master);
    slot.exp_avg_sq = at::zeros_like(slot.master);
    slots_.push_back(std::move(slot));
  }
}

void AdamW::set_master(const std::string& name, const at::Tensor& exact) {
  const at::NoGradGuard no_gradient;
  const auto slot = std::ranges::find(slots_, name, &Slot::name);
  EXPECT(slot != slots_.end() && slot->has_master());
  slot->master.copy_(exact);
}

void AdamW::step(const std::vector<at::Tensor>& gradients, double learning_rate) {
  EXPECT(gradients.size() == slots_.size());
  const at::NoGradGuard no_gradient;
  ++steps_;
  for (size_t i = 0; i < slots_.size(); ++i) {
    EXPECT(gradients[i].scalar_type() == at::kFloat);
    EXPECT(gradients[i].sizes() == slots_[i].master.sizes());
  }
  if (!options_.state_device) return update(slots_, gradients, learning_rate);
  for (size_t i = 0; i < slots_.size(); ++i)  // one gradient at a time takes memory there
    update(std::span(slots_).subspan(i, 1), {gradients[i].to(*options_.state_device)}, learning_rate);
}

void AdamW::update(std::span<const Slot> slots, const std::vector<at::Tensor>& gradients,
                   double learning_rate) const {
  std::vector<at::Tensor> masters, exp_avgs, exp_avg_sqs, counts, rounded, exact;
  for (const Slot& slot : slots) {
    masters.push_back(slot.master);
    exp_avgs.push_back(slot.exp_avg);
    exp_avg_sqs.push_back(slot.exp_avg_sq);
    counts.push_back(at::full({}, static_cast<double>(steps_), slot.master.options()));
    if (!slot.has_master()) continue;
    rounded.push_back(slot.parameter);
    exact.push_back(slot.master);
  }
  at::_fused_adamw_(masters, gradients, exp_avgs, exp_avg_sqs, {}, counts, learning_rate, options_.beta1,
                    options_.beta2, options_.weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false);
  if (!rounded.empty()) at::_foreach_copy_(rounded, exact);
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> state;
  state["step"] = at::tensor({steps_}, at::kLong);
  for (const Slot& slot : slots_) {
    state["exp_avg." + slot.name] = slot.exp_avg;
    state["exp_avg_sq." + slot.name] = slot.exp_avg_sq;
    if (slot.has_master()) state["master." + slot.name] = slot.master;
  }
  return state;
}

void AdamW::load(const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_gradient;
  const auto own = this->state();
  for (const auto& [name, tensor] : own) {
    const auto found = state.find(name);
    VALIDATE(found != state.end(),
             "the optimizer's state lacks {} (training would go on as if from the start): "
             "use the checkpoint of this model and precision",
             name);
    VALIDATE(found->second.sizes() == tensor.sizes() && found->second.scalar_type() == tensor.scalar_type(),
             "the optimizer's state has {} as {} {} where {} {} is needed (it belongs to another model): "
             "use the checkpoint of this model",
             name, at::toString(found->second.scalar_type()), fmt::join(found->second.sizes(), "x"),
             at::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), "x"));
  }
  for (const auto& [name, tensor] : state)
    VALIDATE(own.contains(name),
             "the optimizer's state has {}, which this model does not (it belongs to another model or "
             "precision): use the checkpoint of this model and precision",
             name);
  for (auto& [name, tensor] : own)
    if (name != "step") tensor.copy_(state.at(name));
  steps_ = state.at("step").item<int64_t>();
  for (const Slot& slot : slots_)
    if (slot.has_master()) slot.parameter.copy_(slot.master);
}

at::Tensor clip_gradients(const std::vector<at::Tensor>& gradients, double limit, Communicator* shards) {
  EXPECT(!gradients.empty());
  const at::NoGradGuard no_gradient;
  // Norms of rows in fp32, their squares in fp64: a sum in fp64 throughout costs five times as much (LibTorch
  // copies all into fp64 for it), one in fp32 misses by thousandths.
  constexpr int64_t kRow = 1024;
  std::vector<at::Tensor> squares;
  const auto add = [&](const at::Tensor& rows) {
    squares.push_back(at::linalg_vector_norm(rows, 2, at::IntArrayRef{-1}).to(at::kDouble).square().sum());
  };
  for (const at::Tensor& gradient : gradients) {
    const at::Tensor flat = gradient.reshape(-1);
    const int64_t whole = flat.numel() / kRow * kRow;
    add(flat.narrow(0, 0, whole).view({-1, kRow}));
    add(flat.narrow(0, whole, flat.numel() - whole));
  }
  at::Tensor sum = at::stack(squares).sum();
  if (shards) shards->all_reduce(sum, Reduction::sum);
  const at::Tensor norm = sum.sqrt();
  if (limit <= 0) return norm;
  // A factor of exactly 1 changes no bit; 1e-6 as in torch.nn.utils.clip_grad_norm_. Where the norm is not
  // finite nothing is scaled, so that the tensor at fault can still be found.
  const at::Tensor factor =
      at::where(at::isfinite(norm), (limit / (norm + 1e-6)).clamp_max(1.0), 1.0).to(at::kFloat);
  std::vector<at::Tensor> scaled(gradients);
  at::_foreach_mul_(scaled, factor);
  return norm;
}

}  // namespace surgery
