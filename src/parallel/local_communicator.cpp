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
  double sent_bytes() const override { return 0; }
  std::unique_ptr<Pending> start_all_reduce(at::Tensor& tensor, Reduction reduction) override {
    expect_reducible(tensor, reduction);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> start_reduce_scatter(const at::Tensor& input, at::Tensor& output,
                                                Reduction reduction) override {
    expect_reducible(input, reduction);
    expect_piece(output, input, 0, 1);
    return copy(input, output);
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& input, at::Tensor& output) override {
    expect_piece(input, output, 0, 1);
    return copy(input, output);
  }

 private:
  struct Done final : Pending {
    void wait() override {}
    bool test() override { return true; }
  };
  static std::unique_ptr<Pending> copy(const at::Tensor& input, at::Tensor& output) {
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

void expect_piece(const at::Tensor& piece, const at::Tensor& whole, int rank, int size) {
  expect_communicable(piece);
  expect_communicable(whole);
  EXPECT(piece.scalar_type() == whole.scalar_type());
  EXPECT(whole.numel() == piece.numel() * size);
  const auto* begin = static_cast<const std::byte*>(whole.const_data_ptr());
  const auto* at = static_cast<const std::byte*>(piece.const_data_ptr());
  const auto row = static_cast<std::ptrdiff_t>(piece.nbytes());
  const bool apart = at + row <= begin || begin + size * row <= at;
  if (!apart && at != begin + rank * row)
    fail(
        ExitCode::internal,
        "a rank's piece and the whole overlap without being the same place: a defect of this program, please "
        "report it");
}

void expect_reducible(const at::Tensor& tensor, Reduction reduction) {
  expect_communicable(tensor);
  EXPECT(reduction != Reduction::mean || at::isFloatingType(tensor.scalar_type()));
}

}  // namespace surgery
