#include "recipe/trained_parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace surgery {

TrainedParameters::TrainedParameters(TensorMap& values, AdamWSettings settings) : settings_(settings) {
  for (auto& [name, tensor] : values) {
    tensor = tensor.detach().to(at::kFloat).clone(at::MemoryFormat::Contiguous).requires_grad_(true);
    names_.push_back(name);
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
  }
  const double norm = at::stack(at::_foreach_norm(gradients, 2)).norm().item<double>();
  ++steps_;
  if (std::isfinite(norm)) {
    if (settings_.gradient_clip > 0 && norm > settings_.gradient_clip)
      at::_foreach_mul_(gradients, settings_.gradient_clip / norm);
    at::_foreach_add_(counts_, 1);
    at::_fused_adamw_(values_, gradients, first_, second_, {}, counts_, learning_rate, settings_.beta1,
                      settings_.beta2, settings_.weight_decay, settings_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
    if (!average_.empty()) {
      // Young averages follow quickly: the first values are far from anything useful.
      const double decay = std::min(settings_.average_decay, (1.0 + static_cast<double>(steps_)) /
                                                                 (10.0 + static_cast<double>(steps_)));
      at::_foreach_lerp_(average_, values_, 1 - decay);
    }
  }
  for (auto& value : values_) value.mutable_grad().reset();
  return norm;
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

double cosine_rate(int64_t step, int64_t total, int64_t warmup, double peak, double floor) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done = std::min(
      1.0, static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(total - warmup, 1)));
  return peak * (floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace surgery
