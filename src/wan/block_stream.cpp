#include "wan/block_stream.h"

#include <algorithm>
#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "parallel/quiet_thread.h"

namespace surgery {
namespace {

/// A copy on the host in another dtype. In pieces too small for LibTorch to share out among threads: those
/// belong to the block that computes meanwhile.
at::Tensor convert_on_host(const at::Tensor& tensor, at::ScalarType dtype) {
  constexpr int64_t kPiece = 16384;
  at::Tensor result = at::empty(tensor.sizes(), tensor.options().dtype(dtype));
  if (!tensor.is_contiguous()) return result.copy_(tensor);
  const at::Tensor from = tensor.view(-1), to = result.view(-1);
  for (int64_t begin = 0; begin < from.numel(); begin += kPiece) {
    const int64_t end = std::min(from.numel(), begin + kPiece);
    to.slice(0, begin, end).copy_(from.slice(0, begin, end));
  }
  return result;
}

}  // namespace

BlockStream::BlockStream(std::vector<TensorMap> blocks, at::Device device,
                         std::function<at::ScalarType(const std::string& name)> dtype)
    : blocks_(std::move(blocks)), device_(device), dtype_(std::move(dtype)) {}

BlockStream::~BlockStream() {
  wait();
}

BlockStream::Block BlockStream::get(int64_t block, int64_t next) {
  wait();
  TensorMap tensors = std::move(tensors_);
  tensors_.clear();
  if (prefetched_ != block) {
    tensors = {};
    tensors = convert(block);
  } else if (error_) {
    prefetched_ = -1;
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
  prefetch(next);
  return std::make_shared<const TensorMap>(std::move(tensors));
}

TensorMap BlockStream::convert(int64_t block) const {
  const at::NoGradGuard no_gradient;
  const TensorMap& mapped = blocks_.at(static_cast<size_t>(block));
  for (const auto& [name, tensor] : mapped) want_pages(tensor);
  TensorMap converted;
  for (const auto& [name, tensor] : mapped) {
    converted[name] =
        device_.is_cpu() ? convert_on_host(tensor, dtype_(name)) : tensor.to(device_).to(dtype_(name));
    release_pages(tensor);
  }
  return converted;
}

void BlockStream::prefetch(int64_t block) {
  prefetched_ = block;
  error_ = nullptr;
  thread_ = start_quiet_thread([this, block] {
    try {
      tensors_ = convert(block);
    } catch (...) {
      error_ = std::current_exception();
    }
  });
}

void BlockStream::wait() {
  if (thread_.joinable()) thread_.join();
}

std::vector<TensorMap> tensors_by_block(const TensorMap& tensors, const std::string& prefix, int64_t count,
                                        const std::function<bool(const std::string& name)>& streamed) {
  std::vector<TensorMap> blocks(static_cast<size_t>(count));
  for (const auto& [name, tensor] : tensors) {
    if (!name.starts_with(prefix) || !streamed(name)) continue;
    const auto number =
        parse_number<size_t>(name.substr(prefix.size(), name.find('.', prefix.size()) - prefix.size()));
    EXPECT(number && *number < blocks.size());
    blocks[*number][name] = tensor;
  }
  return blocks;
}

}  // namespace surgery
