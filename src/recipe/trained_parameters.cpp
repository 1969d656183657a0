#include "recipe/trained_parameters.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace surgery {

TrainedParameters::TrainedParameters(TensorMap& values, TrainingSettings settings) : settings_(settings) {
  for (auto& [name, tensor] : values) {
    tensor = tensor.detach().to(at::kFloat).clone(at::MemoryFormat::Contiguous).requires_grad_(true);
    names_.push_back(name);
    muon_.push_back(!settings_.muon_prefix.empty() && name.starts_with(settings_.muon_prefix) &&
                    tensor.dim() == 2);
    values_.push_back(tensor);
    first_.push_back(at::zeros_like(tensor));
    second_.push_back(at::zeros_like(tensor));
    counts_.push_back(at::zeros({}, tensor.options().requires_grad(false)));
    if (settings_.average_decay > 0) average_.push_back(tensor.detach().clone());
  }
}

double TrainedParameters::step(double learning_rate) {
  const at::NoGradGuard no_gradient;
  std::vector<at::Tensor> gradients;
  for (auto& value : values_) {
    if (!value.mutable_grad().defined()) value.mutable_grad() = at::zeros_like(value);
    gradients.push_back(value.grad());
    value.mutable_grad().reset();
  }
  return step(learning_rate, std::move(gradients));
}

double TrainedParameters::step(double learning_rate, std::vector<at::Tensor> gradients) {
  const at::NoGradGuard no_gradient;
  const double norm = at::stack(at::_foreach_norm(gradients, 2)).norm().item<double>();
  ++steps_;
  if (std::isfinite(norm)) {
    if (settings_.gradient_clip > 0 && norm > settings_.gradient_clip)
      at::_foreach_mul_(gradients, settings_.gradient_clip / norm);
    std::vector<at::Tensor> values, grads, first, second, counts;
    for (size_t i = 0; i < values_.size(); ++i) {
      counts_[i].add_(1);
      if (muon_[i]) continue;
      values.push_back(values_[i]), grads.push_back(gradients[i]), counts.push_back(counts_[i]);
      first.push_back(first_[i]), second.push_back(second_[i]);
    }
    at::_fused_adamw_(values, grads, first, second, {}, counts, learning_rate, settings_.beta1,
                      settings_.beta2, settings_.weight_decay, settings_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
    update_by_muon(gradients, learning_rate);
    if (!average_.empty()) {
      // Young averages follow quickly: the first values are far from anything useful.
      const double decay = std::min(settings_.average_decay, (1.0 + static_cast<double>(steps_)) /
                                                                 (10.0 + static_cast<double>(steps_)));
      at::_foreach_lerp_(average_, values_, 1 - decay);
    }
  }
  return norm;
}

void TrainedParameters::update_by_muon(const std::vector<at::Tensor>& gradients, double learning_rate) {
  std::map<std::vector<int64_t>, std::vector<size_t>>
      by_shape;  // equal shapes go through the iteration together
  for (size_t i = 0; i < values_.size(); ++i)
    if (muon_[i]) by_shape[values_[i].sizes().vec()].push_back(i);
  for (const auto& [shape, members] : by_shape) {
    std::vector<at::Tensor> directions;
    for (const size_t i : members) {
      first_[i].mul_(settings_.muon_momentum).add_(gradients[i]);
      directions.push_back(at::add(gradients[i], first_[i], settings_.muon_momentum));
    }
    const auto updates = orthogonalized(at::stack(directions));
    const double scale = 0.2 * std::sqrt(static_cast<double>(std::max(shape[0], shape[1])));
    for (size_t n = 0; n < members.size(); ++n) {
      auto& value = values_[members[n]];
      value.mul_(1 - learning_rate * settings_.weight_decay);
      value.sub_(updates[static_cast<int64_t>(n)], learning_rate * scale);
    }
  }
}

at::Tensor orthogonalized(const at::Tensor& matrices) {
  const bool tall = matrices.size(1) > matrices.size(2);
  auto x = tall ? matrices.transpose(1, 2) : matrices;
  // bf16 is enough (the iteration itself is good to a few per cent) and several times as fast.
  x = (x / (x.flatten(1).norm(2, 1).view({-1, 1, 1}) + 1e-7)).to(at::kBFloat16);
  for (int step = 0; step < 5; ++step) {
    const auto a = at::bmm(x, x.transpose(1, 2));
    const auto b = at::baddbmm(a, a, a, -4.7750, 2.0315);
    x = at::baddbmm(x, b, x, 3.4445, 1.0);
  }
  return (tall ? x.transpose(1, 2) : x).to(matrices.scalar_type());
}

TensorMap TrainedParameters::averaged() const {
  TensorMap result;
  const auto& source = average_.empty() ? values_ : average_;
  for (size_t i = 0; i < names_.size(); ++i) result[names_[i]] = source[i].detach().clone();
  return result;
}

void TrainedParameters::save(const std::filesystem::path& file) const {
  TensorMap all;
  for (size_t i = 0; i < names_.size(); ++i) {
    all["value/" + names_[i]] = values_[i].detach();
    all["first/" + names_[i]] = first_[i];
    all["second/" + names_[i]] = second_[i];
    if (!average_.empty()) all["average/" + names_[i]] = average_[i];
  }
  all["updates"] = counts_.empty() ? at::zeros({}) : counts_.front();
  all["step"] = at::full({}, steps_, at::kLong);
  save_tensors(file, all);
}

void TrainedParameters::load(const std::filesystem::path& file) {
  const at::NoGradGuard no_gradient;
  const auto store = TensorStore::open_file(file);
  const auto fill = [&](const std::string& name, at::Tensor target) {
    VALIDATE(store.contains(name) && store.get(name).sizes() == target.sizes(),
             "{}: {} is missing or of another shape (the checkpoint is of another model): give another work "
             "folder",
             file.string(), name);
    target.copy_(store.get(name));
  };
  for (size_t i = 0; i < names_.size(); ++i) {
    fill("value/" + names_[i], values_[i]);
    fill("first/" + names_[i], first_[i]);
    fill("second/" + names_[i], second_[i]);
    if (!average_.empty()) fill("average/" + names_[i], average_[i]);
    fill("updates", counts_[i]);
  }
  auto count = at::zeros({}, at::kLong);
  fill("step", count);
  steps_ = count.item<int64_t>();
}

}  // namespace surgery
