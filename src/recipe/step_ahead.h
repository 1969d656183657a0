#pragma once
#include <exception>
#include <functional>
#include <thread>

#include "base/clock.h"
#include "parallel/quiet_thread.h"

namespace surgery {

/// What each step of a loop needs, made on a thread of its own while the step before computes.
template <class Content>
class StepAhead {
 public:
  /// `make` is called for one step at a time, by one thread at a time.
  explicit StepAhead(std::function<Content(int64_t step)> make) : make_(std::move(make)) {}
  ~StepAhead() { wait(); }
  StepAhead(const StepAhead&) = delete;
  StepAhead& operator=(const StepAhead&) = delete;

  /// The step's content, or what making it threw; the next step's is begun unless this is the last.
  Content take(int64_t step, bool last) {
    const double begin = steady_seconds();
    wait();
    if (step_ != step) run(step);  // the first, or the loop has jumped
    waited_ += steady_seconds() - begin;
    step_ = kNone;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    Content content = std::move(content_);
    if (!last) thread_ = start_quiet_thread([this, step] { run(step + 1); });
    return content;
  }
  double waited_seconds() const { return waited_; }  ///< in `take`, summed

 private:
  static constexpr int64_t kNone = -1;

  void run(int64_t step) {
    error_ = nullptr;
    try {
      content_ = make_(step);
    } catch (...) {
      error_ = std::current_exception();
    }
    step_ = step;
  }
  void wait() {
    if (thread_.joinable()) thread_.join();
  }

  std::function<Content(int64_t step)> make_;
  std::thread thread_;
  int64_t step_ = kNone;  ///< whose content is there
  Content content_;
  std::exception_ptr error_;
  double waited_ = 0;
};

}  // namespace surgery
