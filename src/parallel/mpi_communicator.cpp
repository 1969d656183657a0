#include "parallel/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <atomic>

#include "base/errors.h"
#include "parallel/backoff.h"
#include "parallel/local_communicator.h"
#include "parallel/mpi_check.h"
#include "parallel/ordered_reduction.h"

namespace surgery {
namespace {

constexpr int64_t chunk_bytes = 16 << 20;  // what one message carries at most
constexpr int64_t buffer_bytes = 8 << 20;  // what a reduction keeps of others' contributions, all ranks'
constexpr int64_t least_bytes = 64 << 10;  // and a message carries at least: many ranks keep more
constexpr int64_t small_bytes =
    64 << 10;                  // up to here all ranks' contributions go everywhere: one round, not two
constexpr int tags = 1 << 14;  // MPI promises tags to 32767

struct Group {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  int next_tag = 0;
  std::atomic<int64_t> sent = 0;  // bytes
  // Operations begin in the same order on every rank, so equal numbers belong to the same operation.
  int take_tag() { return next_tag = (next_tag + 1) % tags; }
  /// The place of another rank where this one is left out.
  int among_others(int other) const { return other < rank ? other : other - 1; }
};

/// Sends and receives in flight together.
class Exchange {
 public:
  void send(Group& group, const std::byte* data, int64_t bytes, int to, int tag) {
    if (bytes == 0) return;
    requests_.emplace_back();
    expected_.push_back(-1);
    group.sent += bytes;
    MPI_CHECK(MPI_Isend(data, narrow<int>(bytes), MPI_BYTE, to, tag, group.comm, &requests_.back()));
  }
  void receive(const Group& group, std::byte* data, int64_t bytes, int from, int tag) {
    if (bytes == 0) return;
    requests_.emplace_back();
    expected_.push_back(narrow<int>(bytes));
    MPI_CHECK(MPI_Irecv(data, narrow<int>(bytes), MPI_BYTE, from, tag, group.comm, &requests_.back()));
  }
  bool test() {
    if (requests_.empty()) return true;
    int done = 0;
    statuses_.resize(requests_.size());
    MPI_CHECK(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses_.data()));
    if (!done) return false;
    for (size_t i = 0; i < expected_.size(); ++i) check_length(i);
    requests_.clear();
    expected_.clear();
    return true;
  }

 private:
  void check_length(size_t i) {
    if (expected_[i] < 0) return;
    int bytes = 0;
    MPI_CHECK(MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes));
    if (bytes != expected_[i])
      fail(ExitCode::internal,
           "rank {} sent {} bytes where {} were expected (the ranks are not in the same collective): "
           "a defect of this program, please report it",
           statuses_[i].MPI_SOURCE, bytes, expected_[i]);
  }
  std::vector<MPI_Request> requests_;
  std::vector<int> expected_;  // bytes of a receive; -1 for a send
  std::vector<MPI_Status> statuses_;
};

std::byte* bytes_of(const at::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

/// One all-reduce, chunk after chunk; each chunk in one or two rounds of messages.
class AllReduce final : public Communicator::Pending {
 public:
  AllReduce(Group& group, at::Tensor& tensor, Reduction reduction)
      : group_(group),
        tag_(group.take_tag()),
        tensor_(tensor),
        reduction_(reduction),
        host_(tensor.is_cpu() ? tensor : tensor.cpu()),
        width_(tensor.element_size()) {
    begin_chunk();
  }

  bool test() override {
    while (!done_) {
      if (!exchange_.test()) return false;
      if (collecting_)
        finish_collecting();
      else
        next_chunk();
    }
    return true;
  }
  void wait() override {
    wait_until([&] { return test(); }, Backoff::for_transfer(host_.numel() * width_));
  }

 private:
  int64_t chunk_elements() const { return std::min(buffer_bytes / width_, host_.numel() - begin_); }
  bool is_small() const { return chunk_elements() * width_ * group_.size <= small_bytes; }
  /// The elements of the chunk that rank r adds up.
  int64_t piece_begin(int r) const { return begin_ + chunk_elements() * r / group_.size; }
  int64_t piece_count(int r) const { return piece_begin(r + 1) - piece_begin(r); }
  std::byte* at(int64_t element) const { return bytes_of(host_) + element * width_; }

  std::byte* contribution(int r, int64_t mine) {
    return contributions_.data() + group_.among_others(r) * mine * width_;
  }

  void begin_chunk() {
    if (begin_ >= host_.numel()) return finish();
    collecting_ = true;
    const int64_t mine = is_small() ? chunk_elements() : piece_count(group_.rank);
    contributions_.resize(static_cast<size_t>(mine * width_ * (group_.size - 1)));
    for (int r = 0; r < group_.size; ++r)
      if (r != group_.rank) exchange_.receive(group_, contribution(r, mine), mine * width_, r, tag_);
    for (int step = 1; step < group_.size; ++step) {  // each rank starts with another one: no rank is flooded
      const int r = (group_.rank + step) % group_.size;
      if (is_small())
        exchange_.send(group_, at(begin_), mine * width_, r, tag_);
      else
        exchange_.send(group_, at(piece_begin(r)), piece_count(r) * width_, r, tag_);
    }
  }
  void finish_collecting() {
    const bool small = is_small();
    const int64_t mine = small ? chunk_elements() : piece_count(group_.rank);
    std::byte* own = small ? at(begin_) : at(piece_begin(group_.rank));
    std::vector<const std::byte*> rows;
    for (int r = 0; r < group_.size; ++r) rows.push_back(r == group_.rank ? own : contribution(r, mine));
    if (mine > 0) reduce_in_rank_order(host_.scalar_type(), reduction_, rows, mine, own);
    collecting_ = false;
    if (small) return;
    for (int step = 1; step < group_.size; ++step) {
      const int r = (group_.rank + step) % group_.size;
      exchange_.receive(group_, at(piece_begin(r)), piece_count(r) * width_, r, tag_);
      exchange_.send(group_, own, mine * width_, r, tag_);
    }
  }
  void next_chunk() {
    begin_ += chunk_elements();
    begin_chunk();
  }
  void finish() {
    if (!tensor_.is_cpu()) tensor_.copy_(host_);
    contributions_ = {};
    done_ = true;
  }

  Group& group_;
  int tag_;
  at::Tensor tensor_;
  Reduction reduction_;
  at::Tensor host_;
  int64_t width_;      // bytes of an element
  int64_t begin_ = 0;  // the chunk's first element
  bool collecting_ = false, done_ = false;
  Exchange exchange_;
  std::vector<std::byte> contributions_;  // [size - 1, mine]; this rank's own row stays in the tensor
};

/// What goes from every rank to every other in chunks of a row's length each: the frame of the two below.
class RowExchange : public Communicator::Pending {
 public:
  bool test() override {
    while (!done_) {
      if (!exchange_.test()) return false;
      finish_chunk(begin_, bytes());
      begin_ += bytes();
      begin_chunk();
    }
    return true;
  }
  void wait() override {
    wait_until([&] { return test(); }, Backoff::for_transfer(row_ * group_.size));
  }

 protected:
  /// `chunk`: bytes of a message at most, a multiple of every type's.
  RowExchange(Group& group, at::Tensor from, at::Tensor to, int64_t row, int64_t chunk)
      : group_(group),
        from_(std::move(from)),
        to_(std::move(to)),
        row_(row),
        chunk_(chunk),
        tag_(group.take_tag()) {}
  void begin_chunk() {
    if (begin_ >= row_) {
      finish();
      done_ = true;
      return;
    }
    prepare(bytes());
    for (int step = 1; step < group_.size; ++step) {  // each rank starts with another one: no rank is flooded
      const int to = (group_.rank + step) % group_.size,
                from = (group_.rank - step + group_.size) % group_.size;
      exchange_.receive(group_, incoming(from, begin_), bytes(), from, tag_);
      exchange_.send(group_, outgoing(to, begin_), bytes(), to, tag_);
    }
  }
  virtual void prepare(int64_t) {}
  virtual std::byte* outgoing(int to, int64_t begin) = 0;
  virtual std::byte* incoming(int from, int64_t begin) = 0;
  virtual void finish_chunk(int64_t, int64_t) {}
  virtual void finish() = 0;

  Group& group_;
  at::Tensor from_, to_;  // on the host
  int64_t row_;           // bytes that a rank sends to another

 private:
  int64_t bytes() const { return std::min(chunk_, row_ - begin_); }

  int64_t chunk_;
  int tag_;
  int64_t begin_ = 0;
  bool done_ = false;
  Exchange exchange_;
};

at::Tensor host_memory_for(const at::Tensor& tensor) {
  return tensor.is_cpu() ? tensor : at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
}

class ReduceScatter final : public RowExchange {
 public:
  ReduceScatter(Group& group, const at::Tensor& input, at::Tensor& output, Reduction reduction)
      : RowExchange(group, input.cpu(), host_memory_for(output), output.numel() * output.element_size(),
                    std::max(least_bytes, buffer_bytes / group.size / least_bytes * least_bytes)),
        output_(output),
        reduction_(reduction) {
    begin_chunk();
  }

 private:
  void prepare(int64_t bytes) override { received_.resize(static_cast<size_t>(bytes * (group_.size - 1))); }
  std::byte* outgoing(int to, int64_t begin) override { return bytes_of(from_) + to * row_ + begin; }
  std::byte* incoming(int from, int64_t) override {
    return received_.data() + group_.among_others(from) * std::ssize(received_) / (group_.size - 1);
  }
  void finish_chunk(int64_t begin, int64_t bytes) override {
    std::vector<const std::byte*> rows;
    for (int r = 0; r < group_.size; ++r)
      rows.push_back(r == group_.rank ? outgoing(r, begin) : incoming(r, begin));
    reduce_in_rank_order(from_.scalar_type(), reduction_, rows, bytes / from_.element_size(),
                         bytes_of(to_) + begin);
  }
  void finish() override {
    if (!output_.is_cpu()) output_.copy_(to_);
    received_ = {};
  }

  at::Tensor output_;
  Reduction reduction_;
  std::vector<std::byte> received_;  // [size - 1, bytes of the chunk]; this rank's own row stays in the input
};

class AllGather final : public RowExchange {
 public:
  AllGather(Group& group, const at::Tensor& input, at::Tensor& output)
      : RowExchange(group, input.cpu(), host_memory_for(output), input.numel() * input.element_size(),
                    chunk_bytes),
        output_(output) {
    std::byte* own = bytes_of(to_) + group_.rank * row_;
    if (row_ > 0 && own != bytes_of(from_)) std::copy_n(bytes_of(from_), row_, own);
    begin_chunk();
  }

 private:
  std::byte* outgoing(int, int64_t begin) override { return bytes_of(from_) + begin; }
  std::byte* incoming(int from, int64_t begin) override { return bytes_of(to_) + from * row_ + begin; }
  void finish() override {
    if (!output_.is_cpu()) output_.copy_(to_);
  }

  at::Tensor output_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator() {
    MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &group_.comm));
    MPI_CHECK(MPI_Comm_set_errhandler(group_.comm, MPI_ERRORS_RETURN));
    MPI_CHECK(MPI_Comm_rank(group_.comm, &group_.rank));
    MPI_CHECK(MPI_Comm_size(group_.comm, &group_.size));
  }
  // The MPI_Comm is left to MPI_Finalize: freeing it is collective, and destructors do not communicate.

  int rank() const override { return group_.rank; }
  int size() const override { return group_.size; }
  double sent_bytes() const override { return static_cast<double>(group_.sent.load()); }

  std::unique_ptr<Pending> start_all_reduce(at::Tensor& tensor, Reduction reduction) override {
    expect_reducible(tensor, reduction);
    return std::make_unique<AllReduce>(group_, tensor, reduction);
  }
  std::unique_ptr<Pending> start_reduce_scatter(const at::Tensor& input, at::Tensor& output,
                                                Reduction reduction) override {
    expect_reducible(input, reduction);
    expect_piece(output, input, group_.rank, group_.size);
    return std::make_unique<ReduceScatter>(group_, input, output, reduction);
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& input, at::Tensor& output) override {
    expect_piece(input, output, group_.rank, group_.size);
    return std::make_unique<AllGather>(group_, input, output);
  }

  void broadcast(at::Tensor& tensor, int root) override {
    expect_communicable(tensor);
    EXPECT(root >= 0 && root < group_.size);
    at::Tensor host = tensor.cpu();
    const int64_t total = host.numel() * host.element_size();
    for (int64_t begin = 0; begin < total; begin += chunk_bytes)
      broadcast_chunk(bytes_of(host) + begin, std::min(chunk_bytes, total - begin), root);
    if (!tensor.is_cpu() && group_.rank != root) tensor.copy_(host);
  }

  void barrier() override {
    MPI_Request request;
    MPI_CHECK(MPI_Ibarrier(group_.comm, &request));
    wait_until(
        [&] {
          int done = 0;
          MPI_CHECK(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
          return done != 0;
        },
        Backoff::for_transfer(0));
  }

 private:
  /// Small chunks go from the root to everyone; of large ones each rank gets a piece, and then all exchange
  /// pieces, so that the root does not send the whole P - 1 times.
  void broadcast_chunk(std::byte* data, int64_t bytes, int root) {
    const bool small = bytes * group_.size <= small_bytes;
    const auto piece = [&](int r) { return small ? 0 : bytes * r / group_.size; };
    const auto length = [&](int r) { return small ? bytes : bytes * (r + 1) / group_.size - piece(r); };
    const int tag = group_.take_tag();
    Exchange from_root;
    if (group_.rank != root)
      from_root.receive(group_, data + piece(group_.rank), length(group_.rank), root, tag);
    for (int r = 0; r < group_.size && group_.rank == root; ++r)
      if (r != root) from_root.send(group_, data + piece(r), length(r), r, tag);
    wait_until([&] { return from_root.test(); }, Backoff::for_transfer(bytes));
    if (small) return;
    const int next_tag = group_.take_tag();
    Exchange pieces;
    for (int r = 0; r < group_.size; ++r) {
      if (r == group_.rank) continue;
      if (group_.rank != root) pieces.receive(group_, data + piece(r), length(r), r, next_tag);
      if (r != root) pieces.send(group_, data + piece(group_.rank), length(group_.rank), r, next_tag);
    }
    wait_until([&] { return pieces.test(); }, Backoff::for_transfer(bytes));
  }
  Group group_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator() {
  return std::make_unique<MpiCommunicator>();
}

}  // namespace surgery
