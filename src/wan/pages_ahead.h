#pragma once
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// Reads the pages of mapped tensors, in their order, on a thread of its own, so that who goes through the
/// tensors in the same order finds them in memory. It stays at most kAhead bytes ahead. Tensors that are not
/// mapped are passed over, and not held.
class PagesAhead {
 public:
  static constexpr int64_t kAhead = int64_t{512} << 20;

  explicit PagesAhead(std::vector<at::Tensor> tensors);
  ~PagesAhead();
  PagesAhead(const PagesAhead&) = delete;
  PagesAhead& operator=(const PagesAhead&) = delete;

  /// The caller is done with this one.
  void passed(const at::Tensor& tensor);

 private:
  void read();

  std::vector<at::Tensor> mapped_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t ahead_ = 0;
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace surgery
