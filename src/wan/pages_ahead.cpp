#include "wan/pages_ahead.h"

#include "parallel/quiet_thread.h"
#include "storage/tensor_store.h"

namespace surgery {

PagesAhead::PagesAhead(std::vector<at::Tensor> tensors) : mapped_(std::move(tensors)) {
  std::erase_if(mapped_, [](const at::Tensor& tensor) { return !is_mapped(tensor); });
  thread_ = start_quiet_thread([this] { read(); });
}

PagesAhead::~PagesAhead() {
  {
    const std::scoped_lock lock(mutex_);
    quit_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void PagesAhead::passed(const at::Tensor& tensor) {
  if (!is_mapped(tensor)) return;
  {
    const std::scoped_lock lock(mutex_);
    ahead_ -= static_cast<int64_t>(tensor.nbytes());
  }
  changed_.notify_one();
}

void PagesAhead::read() {
  for (const at::Tensor& tensor : mapped_) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return quit_ || ahead_ < kAhead; });
      if (quit_) return;
      ahead_ += static_cast<int64_t>(tensor.nbytes());
    }
    read_pages(tensor);
  }
}

}  // namespace surgery
