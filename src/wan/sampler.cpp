#include "wan/sampler.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/errors.h"
#include "wan/flow.h"
#include "wan/multistep.h"

namespace surgery {
namespace {

constexpr std::array<std::pair<SamplerKind, const char*>, 4> kSamplers{
    {{SamplerKind::euler, "euler"},
     {SamplerKind::euler_ancestral, "euler-ancestral"},
     {SamplerKind::unipc, "unipc"},
     {SamplerKind::dpmpp_2m, "dpm++2m"}}};

constexpr std::array<std::pair<ScheduleKind, const char*>, 5> kSchedules{
    {{ScheduleKind::wan_unipc, "wan-unipc"},
     {ScheduleKind::wan_dpmpp, "wan-dpm++"},
     {ScheduleKind::diffsynth, "diffsynth"},
     {ScheduleKind::diffusers_unipc, "diffusers-unipc"},
     {ScheduleKind::diffusers_euler, "diffusers-euler"}}};

template <class Table>
std::vector<std::string> names_of(const Table& table) {
  std::vector<std::string> names;
  for (const auto& [kind, text] : table) names.emplace_back(text);
  return names;
}

template <class Table>
auto parse_name(const Table& table, const std::string& name, const char* what) {
  for (const auto& [kind, text] : table)
    if (name == text) return kind;
  fail_usage("unknown {} '{}': choose one of {}", what, name, fmt::join(names_of(table), ", "));
}

/// Sigma of step i of n.
template <class Shift>
double level_at(ScheduleKind kind, double i, double n, const Shift& shifted) {
  constexpr double smallest = 0.001, margin = 1e-6;
  switch (kind) {
    case ScheduleKind::wan_unipc:
      return shifted((1 - smallest) * (1 - i / n));
    case ScheduleKind::wan_dpmpp:
    case ScheduleKind::diffsynth:
      return shifted(1 - i / n);
    case ScheduleKind::diffusers_unipc: {
      const double sigma = shifted(1 + (smallest - 1) * i / n);
      return i == 0 && std::abs(sigma - 1) < margin ? sigma - margin : sigma;
    }
    case ScheduleKind::diffusers_euler: {
      const double last = shifted(smallest);
      return shifted(n == 1 ? 1 : 1 + (last - 1) * i / (n - 1));
    }
  }
  fail_expectation("a known schedule", __FILE__, __LINE__);
}

class Euler final : public Sampler {
 public:
  explicit Euler(const Schedule& schedule) : sigmas_(schedule.sigmas) {}
  at::Tensor step(int64_t i, const at::Tensor& x, const at::Tensor& velocity) override {
    const size_t now = static_cast<size_t>(i);
    EXPECT(now + 1 < sigmas_.size());
    return x.to(at::kFloat) + velocity.to(at::kFloat) * (sigmas_[now + 1] - sigmas_[now]);
  }

 private:
  std::vector<double> sigmas_;
};

/// Steps below the next level and comes back up with fresh noise, so that the marginal stays
/// (1 - sigma) x0 + sigma noise (the flow form; the variance-exploding one of DDPM samplers would not).
class EulerAncestral final : public Sampler {
 public:
  EulerAncestral(const Schedule& schedule, std::function<at::Tensor(int64_t)> noise, double eta)
      : sigmas_(schedule.sigmas), noise_(std::move(noise)), eta_(eta) {}
  at::Tensor step(int64_t i, const at::Tensor& x, const at::Tensor& velocity) override {
    const size_t now = static_cast<size_t>(i);
    EXPECT(now + 1 < sigmas_.size());
    const double sigma = sigmas_[now], target = sigmas_[now + 1];
    const at::Tensor state = x.to(at::kFloat);
    const at::Tensor x0 = state - velocity.to(at::kFloat) * sigma;
    if (target == 0) return x0;
    const double down = target * (1 + (target / sigma - 1) * eta_);
    const double keep = down / sigma, scale = (1 - target) / (1 - down);
    const double fresh = std::sqrt(std::max(0.0, target * target - down * scale * down * scale));
    const at::Tensor lowered = state * (keep * scale) + x0 * ((1 - keep) * scale);
    if (fresh == 0) return lowered;
    return lowered + noise_(i).to(state.device(), at::kFloat) * fresh;
  }

 private:
  std::vector<double> sigmas_;
  std::function<at::Tensor(int64_t)> noise_;
  double eta_;
};

}  // namespace

std::vector<std::string> schedule_names() {
  return names_of(kSchedules);
}

ScheduleKind parse_schedule(const std::string& name) {
  return parse_name(kSchedules, name, "schedule");
}

Schedule make_schedule(int64_t steps, double shift, ScheduleKind kind) {
  if (steps < 1) fail_usage("{} sampling steps (at least one is needed): set steps to 1 or more", steps);
  if (!(shift > 0) || !std::isfinite(shift))
    fail_usage("shift {} (the schedule needs a positive one): set shift above 0, for example 3", shift);
  const auto shifted = [&](double level) { return shifted_level(level, shift); };
  Schedule schedule;
  for (int64_t i = 0; i < steps; ++i) {
    const double sigma = level_at(kind, static_cast<double>(i), static_cast<double>(steps), shifted);
    const bool whole = kind != ScheduleKind::diffsynth && kind != ScheduleKind::diffusers_euler;
    schedule.timesteps.push_back(whole ? std::trunc(1000 * sigma) : 1000 * sigma);
    schedule.sigmas.push_back(static_cast<double>(static_cast<float>(sigma)));
  }
  schedule.sigmas.push_back(0);
  return schedule;
}

Schedule schedule_from_sigmas(std::vector<double> sigmas) {
  VALIDATE(sigmas.size() >= 2 && sigmas.front() <= 1 && sigmas.back() == 0 &&
               std::is_sorted(sigmas.rbegin(), sigmas.rend(), std::less_equal<>()),
           "{} noise levels that do not fall from at most 1 to 0 (a sampler walks down): give decreasing "
           "sigmas ending in 0",
           sigmas.size());
  Schedule schedule;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) schedule.timesteps.push_back(1000 * sigmas[i]);
  schedule.sigmas = std::move(sigmas);
  return schedule;
}

std::vector<std::string> sampler_names() {
  return names_of(kSamplers);
}

SamplerKind parse_sampler(const std::string& name) {
  return parse_name(kSamplers, name, "sampler");
}

std::string to_string(SamplerKind kind) {
  for (const auto& [known, text] : kSamplers)
    if (known == kind) return text;
  return "unknown";
}

bool can_start(SamplerKind kind, const Schedule& schedule) {
  return kind != SamplerKind::unipc || schedule.sigmas.front() < 1;
}

std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const Schedule& schedule,
                                      std::function<at::Tensor(int64_t step)> noise, double eta) {
  EXPECT(schedule.sigmas.size() >= 2);
  VALIDATE(can_start(kind, schedule),
           "UniPC starts at sigma {} (its logarithm of the signal is finite only below 1): lower the first "
           "level by 1e-6",
           schedule.sigmas.front());
  switch (kind) {
    case SamplerKind::euler:
      return std::make_unique<Euler>(schedule);
    case SamplerKind::euler_ancestral:
      EXPECT(noise || eta == 0);
      if (!(eta >= 0 && eta <= 1)) fail_usage("eta {} of Euler ancestral: set it between 0 and 1", eta);
      return std::make_unique<EulerAncestral>(schedule, std::move(noise), eta);
    case SamplerKind::unipc:
      return make_unipc(schedule);
    case SamplerKind::dpmpp_2m:
      return make_dpmpp_2m(schedule);
  }
  fail_expectation("a known sampler", __FILE__, __LINE__);
}

}  // namespace surgery
