#include "base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace surgery {
namespace {

/// mpirun gives its ranks a pseudo-terminal even when its own output goes to a file; that one has no width.
bool writes_to_a_screen() {
  winsize size{};
  return isatty(STDOUT_FILENO) == 1 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds > 1e9) return "unknown";
  const int64_t whole = std::llround(std::max(0.0, seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  return fmt::format("{}d{:02}h", whole / 86400, whole / 3600 % 24);
}

Progress::Progress(std::string what, int64_t total, std::string unit, int64_t done, ProgressSettings settings)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(total),
      first_(done),
      done_(done),
      settings_(std::move(settings)) {
  terminal_ = settings_.terminal < 0 ? writes_to_a_screen() : settings_.terminal == 1;
  if (!settings_.clock) settings_.clock = steady_seconds;
  if (!settings_.write) {
    if (terminal_)
      settings_.write = [](const std::string& text) {
        if (log_rank() != 0) return;
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      };
    else
      settings_.write = [](const std::string& text) { log_info("{}", text); };
  }
  start_ = shown_ = settings_.clock();
}

Progress::~Progress() {
  try {
    finish();
  } catch (...) {  // a full disk behind standard output must not end the process here
  }
}

std::string Progress::line(double now) const {
  const double seconds = now - start_;
  const double count = static_cast<double>(done_ - first_);
  std::string text = fmt::format("{}: {}/{} {}", what_, done_, total_, unit_);
  if (count > 0 && seconds > 0) {
    const double rate = count / seconds;
    text += rate >= 1 ? fmt::format(", {:.3g} {}/s", rate, unit_) : fmt::format(", {:.3g} s each", 1 / rate);
    if (done_ < total_)
      text += fmt::format(", {} left", format_duration(static_cast<double>(total_ - done_) / rate));
  }
  if (!note_.empty()) text += ", " + note_;
  return text;
}

void Progress::show(double now) {
  shown_ = now;
  line_open_ = terminal_;
  settings_.write(terminal_ ? "\r" + line(now) + "\x1b[K" : line(now));
}

void Progress::advance(int64_t count, const std::string& note) {
  done_ += count;
  note_ = note;
  const double now = settings_.clock();
  if (now - shown_ >= (terminal_ ? settings_.refresh_seconds : settings_.interval_seconds)) show(now);
}

void Progress::finish() {
  if (std::exchange(finished_, true)) return;
  if (done_ < total_) {  // stopped on the way: say how far, by ending the line
    if (line_open_) settings_.write("\n");
    return;
  }
  const double now = settings_.clock();
  const std::string text = line(now) + fmt::format(", took {}", format_duration(now - start_));
  settings_.write(terminal_ ? "\r" + text + "\x1b[K\n" : text);
}

}  // namespace surgery
