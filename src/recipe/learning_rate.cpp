#include "recipe/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace surgery {

const std::vector<std::string>& rate_schedule_names() {
  static const std::vector<std::string> names{"constant", "linear", "cosine"};
  return names;
}

double scheduled_rate(const RateSchedule& schedule, int64_t step, int64_t total, double peak) {
  const int64_t warmup = schedule.warmup;
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (schedule.shape == "constant") return peak;
  const double done = std::min(1.0, static_cast<double>(step - warmup) /
                                        static_cast<double>(std::max<int64_t>(total - 1 - warmup, 1)));
  const double left = schedule.shape == "linear" ? 1 - done : 0.5 * (1 + std::cos(std::numbers::pi * done));
  return peak * (schedule.floor + (1 - schedule.floor) * left);
}

}  // namespace surgery
