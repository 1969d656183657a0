#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace surgery {

/// How a learning rate goes over the steps of a training: it grows in equal steps to its peak over `warmup`
/// steps, and then
///   constant  stays there
///   linear    falls on a line to `floor` of the peak
///   cosine    falls on half a cosine to `floor` of the peak
/// which it reaches at the last step.
struct RateSchedule {
  std::string shape = "constant";
  int64_t warmup = 0;
  double floor = 0;  ///< 0 to 1
};
const std::vector<std::string>& rate_schedule_names();
/// Of step 0 to total - 1.
double scheduled_rate(const RateSchedule& schedule, int64_t step, int64_t total, double peak);

}  // namespace surgery
