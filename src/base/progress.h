#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace surgery {

/// Where progress goes and by which clock; the defaults are standard output and real time.
struct ProgressSettings {
  double interval_seconds = 30;   ///< between lines in a log
  double refresh_seconds = 0.2;   ///< between updates on a terminal
  int terminal = -1;              ///< 1 yes, 0 no, -1 ask standard output
  std::function<double()> clock;  ///< seconds
  std::function<void(const std::string&)>
      write;  ///< terminal: text with its control characters; log: one line
};

/// Long work shows how far it is, at which rate, and how long it has left: one line that is rewritten on a
/// terminal, one line per interval in a log. Only rank 0 shows it. For one thread.
class Progress {
 public:
  /// `done` of `total` are there already (a resumed run): they do not count in the rate. `unit` is a plural.
  Progress(std::string what, int64_t total, std::string unit, int64_t done = 0,
           ProgressSettings settings = {});
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `count` more are done; `note` (such as "loss 0.12") is shown behind the rate until the next.
  void advance(int64_t count = 1, const std::string& note = {});
  /// The last line, with the total time; called by the destructor where it was not. After an error no more
  /// than the unfinished line is ended.
  void finish();

 private:
  std::string line(double now) const;
  void show(double now);

  std::string what_, unit_, note_;
  int64_t total_, first_, done_;
  ProgressSettings settings_;
  double start_ = 0, shown_ = 0;
  bool terminal_ = false, finished_ = false, line_open_ = false;
};

/// "42s", "3m05s", "1h02m", "2d03h".
std::string format_duration(double seconds);

}  // namespace surgery
