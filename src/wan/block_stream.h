#pragma once
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/tensor.h"
#include "storage/tensor_store.h"

namespace surgery {

/// The blocks of a model whose weights stay in their mapped file: a block is converted when it is its turn,
/// the next one meanwhile on a thread of its own, and the pages of the file are let go. So two blocks are in
/// memory at most, as long as who asks for a block lets go of the one before.
class BlockStream {
 public:
  using Block = std::shared_ptr<const TensorMap>;

  /// `blocks`: the mapped tensors of each, left as they are; `dtype`: what a tensor becomes, by its name.
  BlockStream(std::vector<TensorMap> blocks, at::Device device,
              std::function<at::ScalarType(const std::string& name)> dtype);
  ~BlockStream();
  BlockStream(const BlockStream&) = delete;
  BlockStream& operator=(const BlockStream&) = delete;

  /// The tensors of a block in memory of their own, under their names; `next` is begun meanwhile. One caller
  /// at a time.
  Block get(int64_t block, int64_t next);

 private:
  TensorMap convert(int64_t block) const;
  void prefetch(int64_t block);
  void wait();

  std::vector<TensorMap> blocks_;
  at::Device device_;
  std::function<at::ScalarType(const std::string& name)> dtype_;
  std::thread thread_;
  int64_t prefetched_ = -1;  ///< what the thread converts or has converted
  TensorMap tensors_;
  std::exception_ptr error_;
};

/// The tensors whose names begin with `prefix` and a block's number, of `count` blocks, that `streamed`
/// names.
std::vector<TensorMap> tensors_by_block(const TensorMap& tensors, const std::string& prefix, int64_t count,
                                        const std::function<bool(const std::string& name)>& streamed);

}  // namespace surgery
