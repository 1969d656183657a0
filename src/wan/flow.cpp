#include "wan/flow.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace surgery {
namespace {

using std::numbers::pi;

struct NamedWeight {
  std::string name;
  double (*weight)(double sigma);
};

double bell(double sigma) {
  return std::exp(-2 * (sigma - 0.5) * (sigma - 0.5)) - std::exp(-0.5);
}

const std::vector<NamedWeight>& weightings() {
  static const std::vector<NamedWeight> all{
      {"none", [](double) { return 1.0; }},
      {"sigma_sqrt", [](double sigma) { return 1 / std::pow(std::max(sigma, 0.001), 2); }},
      {"cosmap", [](double sigma) { return 2 / (pi * (1 - 2 * sigma + 2 * sigma * sigma)); }},
      {"bell", bell}};
  return all;
}

}  // namespace

double shifted_level(double u, double shift) {
  return shift * u / (1 + (shift - 1) * u);
}

FlowSample flow_sample(const at::Tensor& clip, const at::Tensor& noise, double sigma) {
  return {(1 - sigma) * clip + sigma * noise, noise - clip, 1000 * sigma};
}

const std::vector<std::string>& level_density_names() {
  static const std::vector<std::string> names{"uniform", "logit_normal", "mode"};
  return names;
}

double draw_level(const LevelDensity& density, RandomStream& draws) {
  if (density.name == "logit_normal")
    return 1 / (1 + std::exp(-(density.mean + density.deviation * draws.normal())));
  const double v = draws.uniform();
  if (density.name != "mode") return v;
  const double cosine = std::cos(pi * v / 2);
  return std::clamp(1 - v - density.mode_scale * (cosine * cosine - 1 + v), 0.0, 1.0);
}

LossWeighting::LossWeighting(const std::string& name, double shift) {
  const auto found = std::ranges::find(weightings(), name, &NamedWeight::name);
  if (found == weightings().end())
    fail_usage("loss weighting '{}' is unknown: choose one of {}", name, fmt::join(names(), ", "));
  weight_ = found->weight;
  if (weight_ != bell) return;
  constexpr int kLevels = 1000;
  double sum = 0;
  for (int i = 0; i < kLevels; ++i) sum += bell(shifted_level(1 - i / double(kLevels), shift));
  scale_ = kLevels / sum;
}

const std::vector<std::string>& LossWeighting::names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const NamedWeight& one : weightings()) list.push_back(one.name);
    return list;
  }();
  return names;
}

double LossWeighting::at(double sigma) const {
  return scale_ * weight_(sigma);
}

}  // namespace surgery
