#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace surgery {

enum class Reduction { sum, mean, max, min };

/// Collectives over a fixed group of ranks. Every rank calls every collective in the same order. Tensors are
/// contiguous; counts and types come from them. fp32, fp64, bf16 (summed in fp32), int64, uint8.
/// Every implementation passes tests/mpi/communicator_contract_test.cpp.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void broadcast(at::Tensor& tensor, int root) = 0;
  virtual void barrier() = 0;
  virtual double sent_bytes() const = 0;  ///< of tensors, to other ranks, since it was made

  /// A collective in flight. It and its tensors must live until wait() returns or test() says yes, and the
  /// tensors are nobody else's until then. Results do not depend on timing.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual void wait() = 0;
    virtual bool test() = 0;  ///< drives progress; true when done
  };
  virtual std::unique_ptr<Pending> start_all_reduce(at::Tensor& tensor, Reduction reduction) = 0;
  /// input [size * n] -> output [n]: this rank's piece of the reduction. `output` may be that piece of
  /// `input`.
  virtual std::unique_ptr<Pending> start_reduce_scatter(const at::Tensor& input, at::Tensor& output,
                                                        Reduction reduction) = 0;
  /// input [n] -> output [size * n], by rank. `input` may be this rank's piece of `output`.
  virtual std::unique_ptr<Pending> start_all_gather(const at::Tensor& input, at::Tensor& output) = 0;

  // Conveniences over the above.
  void all_reduce(at::Tensor& tensor, Reduction reduction) { start_all_reduce(tensor, reduction)->wait(); }
  void reduce_scatter(const at::Tensor& input, at::Tensor& output, Reduction reduction) {
    start_reduce_scatter(input, output, reduction)->wait();
  }
  void all_gather(const at::Tensor& input, at::Tensor& output) { start_all_gather(input, output)->wait(); }
  std::string broadcast_text(const std::string& text, int root);
  std::vector<std::string> gather_text(const std::string& text);  ///< every rank's text, on every rank
  double all_reduce_value(double value, Reduction reduction);
};

}  // namespace surgery
