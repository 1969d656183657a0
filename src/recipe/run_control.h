#pragma once
#include <array>
#include <chrono>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace surgery {

/// What asks a run from outside to stop or to save, beside signals: files of a person, and the end of the
/// job's time. It looks at most once a second. Any thread.
class RunControl {
 public:
  /// `stop_at`: see stop_time.
  RunControl(std::filesystem::path stop_file, std::filesystem::path save_file, std::optional<double> stop_at);
  /// Asks for a stop (base/signals.h) where the file is there or the time has come, and says so once.
  void look();
  bool save_asked();  ///< as of the last look
  /// The wish is granted: takes the file away. Where it cannot be, the wish is passed over from now on.
  void saved();

 private:
  const std::filesystem::path stop_file_, save_file_;
  const std::optional<double> stop_at_;
  std::mutex mutex_;
  std::optional<std::chrono::steady_clock::time_point> looked_;
  bool told_ = false, save_ = false, granted_ = false;
};

/// The stages of a recipe, by which limits are named.
inline constexpr std::array<std::string_view, 10> kStages{"trajectories", "distill",  "tables", "select",
                                                          "encode",       "finetune", "model",  "generate",
                                                          "evaluate",     "report"};

/// run.stall_minutes: how long a rank may show no progress, in minutes; 0 = as long as it likes.
struct StallLimits {
  double minutes = 0;                        ///< of stages without a limit of their own
  std::map<std::string, double> by_stage{};  ///< "finetune"
  double seconds(const std::string& stage) const;
  bool any() const;
};
/// "30", "30,finetune=5". Error{usage}.
StallLimits parse_stall_limits(std::string_view text);

/// When to stop, in seconds since 1970, so that a job that begins now and ends at `job_end`
/// (SLURM_JOB_END_TIME's text, of the same clock) commits what it has: five minutes before, of a short job
/// the last tenth. None without an end that can be read.
std::optional<double> stop_time(double now, const char* job_end);
/// Of this job, from its environment.
std::optional<double> stop_time();

}  // namespace surgery
