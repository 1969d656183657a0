#include "parallel/local_communicator.h"

#include "base/errors.h"

namespace surgery {
namespace {

class LocalCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void broadcast(at::Tensor& tensor, int root) override {
    expect_communicable(tensor);
    EXPECT(root == 0);
  }
  void barrier() override {}
  std::unique_ptr<Pending> start_all_reduce(at::Tensor& tensor, Reduction reduction) override {
    expect_reducible(tensor, reduction);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> start_reduce_scatter(const at::Tensor& input, at::Tensor& output,
                                                Reduction reduction) override {
    expect_reducible(input, reduction);
    return copy(input, output);
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& input, at::Tensor& output) override {
    return copy(input, output);
  }

 private:
  struct Done final : Pending {
    void wait() override {}
    bool test() override { return true; }
  };
  static std::unique_ptr<Pending> copy(const at::Tensor& input, at::Tensor& output) {
    expect_communicable(input);
    expect_communicable(output);
    EXPECT(input.scalar_type() == output.scalar_type());
    EXPECT(input.numel() == output.numel());
    if (output.data_ptr() != input.data_ptr()) output.view(-1).copy_(input.view(-1));
    return std::make_unique<Done>();
  }
};

}  // namespace

std::unique_ptr<Communicator> make_local_communicator() {
  return std::make_unique<LocalCommunicator>();
}

void expect_communicable(const at::Tensor& tensor) {
  EXPECT(tensor.defined());
  EXPECT(tensor.is_contiguous());
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kBFloat16:
    case at::kLong:
    case at::kByte:
      return;
    default:
      fail(ExitCode::internal,
           "ranks cannot exchange tensors of {} (fp32, fp64, bf16, int64 and uint8 can): convert first",
           at::toString(tensor.scalar_type()));
  }
}

void expect_reducible(const at::Tensor& tensor, Reduction reduction) {
  expect_communicable(tensor);
  EXPECT(reduction != Reduction::mean || at::isFloatingType(tensor.scalar_type()));
}

}  // namespace surgery
