// What every communicator must do, whatever carries its messages.
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <thread>

#include "base/errors.h"
#include "base/random.h"
#include "parallel/communicator.h"
#include "parallel/nccl_communicator.h"
#include "session_main.h"

namespace surgery {
namespace {

using testing::session;

/// This rank's GPU: one for all where each sees its own alone.
at::Device nccl_device() {
  const int count = torch::cuda::is_available() ? static_cast<int>(torch::cuda::device_count()) : 0;
  return {at::kCUDA, static_cast<c10::DeviceIndex>(count > 1 ? session().local_rank() % count : 0)};
}

struct Implementation {
  std::string name;
  std::function<std::unique_ptr<Communicator>()> make;
  bool on_gpu = false;  ///< and its sums in an order of its own: right to rounding
};

class CommunicatorContract : public ::testing::TestWithParam<Implementation> {
 protected:
  void SetUp() override {
    if (GetParam().on_gpu && (!torch::cuda::is_available() ||
                              static_cast<int>(torch::cuda::device_count()) < session().local_size()))
      GTEST_SKIP() << "no GPU for each of " << session().local_size() << " ranks";
    communicator_ = GetParam().make();
    rank_ = communicator_->rank();
    size_ = communicator_->size();
  }
  /// What rank r contributes: the same numbers on whichever rank asks.
  static at::Tensor contribution(int r, int64_t count, at::ScalarType type = at::kFloat) {
    if (type == at::kLong || type == at::kByte)
      return (random_uniform(RandomKey{11}.with(static_cast<uint64_t>(r)), {count}) * 50).to(device(), type);
    return random_normal(RandomKey{7}.with(static_cast<uint64_t>(r)), {count}).to(device(), type);
  }
  /// Many elements, quickly made.
  static at::Tensor large(int r, int64_t count) {
    return at::arange(count, at::kFloat).remainder(1009).mul(0.37 + r).to(device());
  }
  static at::Device device() { return GetParam().on_gpu ? nccl_device() : at::Device(at::kCPU); }
  static at::Tensor zeros(int64_t count, at::ScalarType type = at::kFloat) {
    return at::zeros({count}, at::TensorOptions(device()).dtype(type));
  }
  /// Of sums that a collective made: the same bits, or the same to rounding where its order is its own.
  static bool same(const at::Tensor& found, const at::Tensor& wanted) {
    if (!GetParam().on_gpu || !found.is_floating_point()) return at::equal(found, wanted);
    return at::allclose(found, wanted, found.scalar_type() == at::kBFloat16 ? 2e-2 : 1e-5, 1e-5);
  }
  /// The reduction as the definition says, one rank after the other.
  at::Tensor expected(int64_t count, at::ScalarType type, Reduction reduction) const {
    const at::ScalarType wide = type == at::kFloat || type == at::kDouble ? at::kDouble
                                : type == at::kBFloat16                   ? at::kFloat
                                                                          : type;
    at::Tensor total = contribution(0, count, type).to(wide);
    for (int r = 1; r < size_; ++r) {
      const at::Tensor next = contribution(r, count, type).to(wide);
      if (reduction == Reduction::max)
        total = at::maximum(total, next);
      else if (reduction == Reduction::min)
        total = at::minimum(total, next);
      else
        total = total + next;
    }
    if (reduction == Reduction::mean) total = total / size_;
    return total.to(type);
  }
  std::unique_ptr<Communicator> communicator_;
  int rank_ = 0, size_ = 1;
};

TEST_P(CommunicatorContract, KnowsItsGroup) {
  EXPECT_EQ(size_, session().size());
  EXPECT_EQ(rank_, session().rank());
}

TEST_P(CommunicatorContract, AllReduceIsTheSumInRankOrderForEveryTypeAndSize) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kLong, at::kByte})
    for (const int64_t count : {0, 1, 3, 1000, 100'003}) {
      for (const auto reduction : {Reduction::sum, Reduction::mean, Reduction::max, Reduction::min}) {
        if (reduction == Reduction::mean && !at::isFloatingType(type)) continue;
        at::Tensor tensor = contribution(rank_, count, type);
        communicator_->all_reduce(tensor, reduction);
        EXPECT_TRUE(same(tensor, expected(count, type, reduction)))
            << at::toString(type) << " " << count << " reduction " << static_cast<int>(reduction);
      }
    }
}

TEST_P(CommunicatorContract, AllReduceOfManyChunksEqualsThatOfItsParts) {
  const int64_t count = 9'000'001;  // 36 MB: more than two messages a piece
  at::Tensor whole = large(rank_, count);
  std::vector<at::Tensor> parts;
  for (const auto& part : whole.split(3'333'333)) parts.push_back(part.clone());
  communicator_->all_reduce(whole, Reduction::mean);
  for (at::Tensor& part : parts) communicator_->all_reduce(part, Reduction::mean);
  EXPECT_TRUE(same(whole, at::cat(parts)));
}

TEST_P(CommunicatorContract, ResultsAreTheSameBitsOnEveryRankAndEveryTime) {
  at::Tensor first;
  for (int repeat = 0; repeat < 3; ++repeat) {
    at::Tensor tensor = contribution(rank_, 50'000);
    communicator_->all_reduce(tensor, Reduction::sum);
    at::Tensor all = zeros(size_ * tensor.numel()).view({size_, -1});
    communicator_->all_gather(tensor, all);
    EXPECT_TRUE(same(tensor, expected(50'000, at::kFloat, Reduction::sum)));
    for (int r = 0; r < size_; ++r) EXPECT_TRUE(at::equal(all[r], tensor));
    if (repeat == 0) first = tensor;
    EXPECT_TRUE(at::equal(tensor, first));
  }
}

TEST_P(CommunicatorContract, ANanOnOneRankReachesAll) {
  for (const auto reduction : {Reduction::sum, Reduction::mean, Reduction::max, Reduction::min}) {
    if (device().is_cuda() && (reduction == Reduction::max || reduction == Reduction::min)) continue;
    at::Tensor tensor = zeros(3);
    if (rank_ == size_ - 1) tensor[1] = std::numeric_limits<float>::quiet_NaN();
    communicator_->all_reduce(tensor, reduction);
    EXPECT_TRUE(tensor[1].isnan().item<bool>());
    EXPECT_FALSE(tensor[2].isnan().item<bool>());
  }
}

TEST_P(CommunicatorContract, ReduceScatterGivesEachRankItsPieceOfTheAllReduce) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kLong}) {
    const int64_t count = 4099;
    const at::Tensor input = contribution(rank_, count * size_, type);
    at::Tensor output = zeros(count, type);
    communicator_->reduce_scatter(input, output, Reduction::sum);
    EXPECT_TRUE(same(output, expected(count * size_, type, Reduction::sum).narrow(0, rank_ * count, count)));
  }
}

TEST_P(CommunicatorContract, AllGatherJoinsThePiecesByRank) {
  const int64_t count = 1234;
  at::Tensor output = zeros(size_ * count, at::kBFloat16);
  communicator_->all_gather(contribution(rank_, count, at::kBFloat16), output);
  for (int r = 0; r < size_; ++r)
    EXPECT_TRUE(at::equal(output.narrow(0, r * count, count), contribution(r, count, at::kBFloat16)));
}

TEST_P(CommunicatorContract, PiecesMayLieInTheWhole) {
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const int64_t count : {0, 1, 4'500'001}) {  // the last in more than one message
      at::Tensor whole = large(rank_, count * size_).to(type);
      at::Tensor reduced = whole.clone();
      communicator_->all_reduce(reduced, Reduction::mean);
      at::Tensor piece = whole.narrow(0, rank_ * count, count);
      communicator_->reduce_scatter(whole, piece, Reduction::mean);
      EXPECT_TRUE(same(piece, reduced.narrow(0, rank_ * count, count)));
      communicator_->all_gather(piece, whole);
      EXPECT_TRUE(same(whole, reduced)) << at::toString(type) << " " << count;
    }
}

TEST_P(CommunicatorContract, BroadcastComesFromAnyRoot) {
  for (int root = 0; root < size_; ++root) {
    at::Tensor tensor = large(rank_, 5'000'000);  // more than one message
    communicator_->broadcast(tensor, root);
    EXPECT_TRUE(at::equal(tensor, large(root, 5'000'000)));
  }
}

TEST_P(CommunicatorContract, SeveralAllReducesInFlightDoNotMix) {
  std::vector<at::Tensor> tensors;
  std::vector<std::unique_ptr<Communicator::Pending>> pending;
  const std::vector<int64_t> counts{70'000, 3, 1'000'000, 500};
  for (const int64_t count : counts) tensors.push_back(contribution(rank_, count));
  for (at::Tensor& tensor : tensors)
    pending.push_back(communicator_->start_all_reduce(tensor, Reduction::sum));
  // Waited for in another order on every second rank.
  for (size_t i = 0; i < pending.size(); ++i) {
    const size_t which = rank_ % 2 ? pending.size() - 1 - i : i;
    if (rank_ % 2)
      while (!std::all_of(pending.begin(), pending.end(), [](auto& p) { return p->test(); }))
        std::this_thread::yield();
    pending[which]->wait();
    EXPECT_TRUE(pending[which]->test());
  }
  for (size_t i = 0; i < counts.size(); ++i)
    EXPECT_TRUE(same(tensors[i], expected(counts[i], at::kFloat, Reduction::sum)));
}

TEST_P(CommunicatorContract, CollectivesOfAllKindsInFlightDoNotMix) {
  const int64_t count = 4'500'001;  // more than one message
  at::Tensor sum = large(rank_, count), piece = zeros(count), all = zeros(size_ * count);
  const at::Tensor whole = large(rank_, count * size_), mine = large(rank_, count);
  std::vector<std::unique_ptr<Communicator::Pending>> pending;
  pending.push_back(communicator_->start_reduce_scatter(whole, piece, Reduction::sum));
  pending.push_back(communicator_->start_all_gather(mine, all));
  pending.push_back(communicator_->start_all_reduce(sum, Reduction::sum));
  while (!std::ranges::all_of(pending, [](auto& p) { return p->test(); })) std::this_thread::yield();
  at::Tensor expected_sum = large(rank_, count), expected_whole = whole.clone();
  communicator_->all_reduce(expected_sum, Reduction::sum);
  communicator_->all_reduce(expected_whole, Reduction::sum);
  EXPECT_TRUE(same(sum, expected_sum));
  EXPECT_TRUE(same(piece, expected_whole.narrow(0, rank_ * count, count)));
  for (int r = 0; r < size_; ++r) EXPECT_TRUE(at::equal(all.narrow(0, r * count, count), large(r, count)));
}

TEST_P(CommunicatorContract, TextAndValuesTravel) {
  const std::string mine(static_cast<size_t>(rank_) * 3, static_cast<char>('a' + rank_));
  const auto texts = communicator_->gather_text(mine);
  ASSERT_EQ(texts.size(), static_cast<size_t>(size_));
  for (int r = 0; r < size_; ++r)
    EXPECT_EQ(texts[static_cast<size_t>(r)],
              std::string(static_cast<size_t>(r) * 3, static_cast<char>('a' + r)));
  EXPECT_EQ(communicator_->broadcast_text(rank_ == size_ - 1 ? "from the last" : "", size_ - 1),
            "from the last");
  EXPECT_EQ(communicator_->broadcast_text(rank_ == 0 ? "" : "other", 0), "");
  EXPECT_EQ(communicator_->all_reduce_value(rank_ + 1, Reduction::sum), size_ * (size_ + 1) / 2);
  EXPECT_EQ(communicator_->all_reduce_value(rank_, Reduction::max), size_ - 1);
}

TEST_P(CommunicatorContract, NobodyPassesABarrierBeforeAllHaveCome) {
  // Each rank in turn comes late and says so to all by a broadcast that only follows the barrier.
  for (int late = 0; late < size_; ++late) {
    if (rank_ == late) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const double arrived = static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(
                                                   std::chrono::system_clock::now().time_since_epoch())
                                                   .count());
    communicator_->barrier();
    const double left = static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(
                                                std::chrono::system_clock::now().time_since_epoch())
                                                .count());
    EXPECT_LE(communicator_->all_reduce_value(arrived, Reduction::max),
              communicator_->all_reduce_value(left, Reduction::min));
  }
}

TEST_P(CommunicatorContract, RefusesWhatItCannotCarry) {
  const auto refuses = [](const auto& call, const std::string& part) {
    try {
      call();
      ADD_FAILURE() << "accepted, expected: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::internal);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  at::Tensor half = zeros(4, at::kHalf), strided = zeros(16).view({4, 4}).t().narrow(0, 0, 2);
  at::Tensor integers = zeros(4, at::kLong), wrong = zeros(size_ * 4 + 1);
  refuses([&] { communicator_->all_reduce(half, Reduction::sum); }, "Half");
  refuses([&] { communicator_->broadcast(half, 0); }, "Half");
  refuses([&] { communicator_->all_reduce(strided, Reduction::sum); }, "is_contiguous");
  refuses([&] { communicator_->all_reduce(integers, Reduction::mean); }, "mean");
  refuses([&] { communicator_->all_gather(zeros(4), wrong); }, "numel");
  at::Tensor memory = zeros(size_ * 4 + 1);
  at::Tensor whole = memory.narrow(0, 0, size_ * 4), shifted = memory.narrow(0, rank_ * 4 + 1, 4);
  refuses([&] { communicator_->reduce_scatter(whole, shifted, Reduction::sum); }, "overlap");
  refuses([&] { communicator_->all_gather(shifted, whole); }, "overlap");
  refuses([&] { communicator_->broadcast(integers, size_); }, "root");
}

// A session without a launcher gives the single rank's communicator, under mpirun MPI's (also for one rank):
// the program is run in both ways. A further implementation is one more line here.
const std::vector<Implementation> implementations{
    {"Session", [] { return session().duplicate(); }},
    {"Nccl", [] { return make_nccl_communicator(session().duplicate(), nccl_device()); },
     /*on_gpu=*/true}};

INSTANTIATE_TEST_SUITE_P(Implementations, CommunicatorContract, ::testing::ValuesIn(implementations),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace surgery
