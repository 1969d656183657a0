#include "recipe/run_control.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <string_view>

#include "base/errors.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"

namespace surgery {
namespace {

double wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

RunControl::RunControl(std::filesystem::path stop_file, std::filesystem::path save_file,
                       std::optional<double> stop_at)
    : stop_file_(std::move(stop_file)), save_file_(std::move(save_file)), stop_at_(stop_at) {}

void RunControl::look() {
  const std::scoped_lock lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (looked_ && now - *looked_ < std::chrono::seconds(1)) return;
  looked_ = now;
  std::error_code error;
  save_ = std::filesystem::exists(save_file_, error) && !granted_;
  if (told_) return;
  if (std::filesystem::exists(stop_file_, error))
    log_info("{} is there: stops at the next step", stop_file_.string());
  else if (stop_at_ && wall_clock() >= *stop_at_)
    log_info("the job's time is nearly over: stops at the next step");
  else
    return;
  told_ = true;
  request_stop();
}

bool RunControl::save_asked() {
  const std::scoped_lock lock(mutex_);
  return save_;
}

void RunControl::saved() {
  const std::scoped_lock lock(mutex_);
  save_ = false;
  std::error_code error;
  if (!std::filesystem::remove(save_file_, error) && error) {
    granted_ = true;
    log_warning("{}: cannot be removed ({}): it asks for no further checkpoint", save_file_.string(),
                error.message());
  }
}

double StallLimits::seconds(const std::string& stage) const {
  const auto own = by_stage.find(stage);
  return 60 * (own == by_stage.end() ? minutes : own->second);
}

bool StallLimits::any() const {
  return minutes > 0 || std::ranges::any_of(by_stage, [](const auto& limit) { return limit.second > 0; });
}

StallLimits parse_stall_limits(std::string_view text) {
  StallLimits limits;
  std::set<std::string> seen;
  for (const std::string& part : split(without_spaces(text), ',')) {
    const size_t equal = part.find('=');
    const std::string stage = equal == std::string::npos ? "" : part.substr(0, equal);
    const double minutes =
        parse_number<double>(std::string_view(part).substr(stage.empty() ? 0 : equal + 1)).value_or(-1);
    if (!(minutes >= 0) || !std::isfinite(minutes))
      fail_usage("'{}' is no limit: MINUTES, or STAGE=MINUTES, as in 30,finetune=5", part);
    if (!stage.empty() && std::ranges::find(kStages, std::string_view(stage)) == kStages.end())
      fail_usage("'{}' names no stage: {}", part, fmt::join(kStages, ", "));
    if (!seen.insert(stage).second) fail_usage("'{}' is a second limit of the same stages", part);
    (stage.empty() ? limits.minutes : limits.by_stage[stage]) = minutes;
  }
  return limits;
}

std::optional<double> stop_time(double now, const char* job_end) {
  const auto end = job_end ? parse_number<double>(job_end) : std::nullopt;
  if (!end || *end <= now) return std::nullopt;
  return *end - std::min(300.0, (*end - now) / 10);
}

std::optional<double> stop_time() {
  return stop_time(wall_clock(), std::getenv("SLURM_JOB_END_TIME"));
}

}  // namespace surgery
