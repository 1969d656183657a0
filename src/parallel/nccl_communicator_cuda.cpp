#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/errors.h"
#include "parallel/backoff.h"
#include "parallel/local_communicator.h"
#include "parallel/nccl_communicator.h"

namespace surgery {
namespace {

void check_nccl(ncclResult_t code, ncclComm_t comm, const char* expression) {
  if (code == ncclSuccess || code == ncclInProgress) return;
  fail(ExitCode::internal, "NCCL: {} failed: {} ({})", expression, ncclGetErrorString(code),
       comm ? ncclGetLastError(comm) : "no communicator");
}
#define NCCL_CHECK(comm, call) check_nccl((call), (comm), #call)

void check_cuda(cudaError_t code, const char* expression) {
  if (code != cudaSuccess)
    fail(ExitCode::internal, "CUDA: {} failed: {}", expression, cudaGetErrorString(code));
}

ncclDataType_t type_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    default:
      fail(ExitCode::internal, "NCCL: no collective of {}", at::toString(tensor.scalar_type()));
  }
}

ncclRedOp_t operation_of(Reduction reduction) {
  switch (reduction) {
    case Reduction::sum:
      return ncclSum;
    case Reduction::mean:
      return ncclAvg;
    case Reduction::max:
      return ncclMax;
    case Reduction::min:
      return ncclMin;
  }
  fail(ExitCode::internal, "NCCL: an unknown reduction");
}

/// One for all communicators of a device.
c10::cuda::CUDAStream shared_stream(at::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  const std::scoped_lock lock(mutex);
  const auto found = streams.find(device.index());
  if (found != streams.end()) return found->second;
  return streams
      .emplace(device.index(), c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index()))
      .first->second;
}

/// "host's PCI place" of every rank; refuses two alike.
void check_devices(Communicator& host, at::Device device) {
  char place[32] = {}, name[256] = {};
  check_cuda(cudaDeviceGetPCIBusId(place, sizeof place, device.index()), "cudaDeviceGetPCIBusId");
  ::gethostname(name, sizeof name - 1);
  const std::vector<std::string> all = host.gather_text(fmt::format("GPU {} of {}", place, name));
  for (size_t a = 0; a < all.size(); ++a)
    for (size_t b = a + 1; b < all.size(); ++b)
      if (all[a] == all[b])
        fail_usage("ranks {} and {} both have {}: start one rank per GPU (NCCL cannot share one)", a, b,
                   all[a]);
}

class Done final : public Communicator::Pending {
 public:
  void wait() override {}
  bool test() override { return true; }
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, at::Device device)
      : host_(std::move(host)), device_(device), stream_(shared_stream(device)) {
    check_devices(*host_, device_);
    const c10::cuda::CUDAGuard guard(device_);
    ncclUniqueId id{};
    if (rank() == 0) NCCL_CHECK(nullptr, ncclGetUniqueId(&id));
    at::Tensor bytes = at::empty({sizeof id}, at::kByte);
    std::memcpy(bytes.data_ptr(), &id, sizeof id);
    host_->broadcast(bytes, 0);
    std::memcpy(&id, bytes.data_ptr(), sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // no call waits for a peer: a lost one is seen by polling
    NCCL_CHECK(nullptr, ncclCommInitRankConfig(&comm_, size(), id, rank(), &config));
    settle();
  }
  // The ncclComm_t is left to the end of the process: destroying it waits for the peers.

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  std::unique_ptr<Pending> start_all_reduce(at::Tensor& tensor, Reduction reduction) override {
    expect_reducible(tensor, reduction);
    if (tensor.is_cpu()) return host_->start_all_reduce(tensor, reduction);
    sent_ += 2 * of_others() * static_cast<double>(tensor.nbytes());
    return launch(tensor, [&](cudaStream_t stream) {
      return ncclAllReduce(tensor.data_ptr(), tensor.data_ptr(), count(tensor), type_of(tensor),
                           operation_of(reduction), comm_, stream);
    });
  }
  std::unique_ptr<Pending> start_reduce_scatter(const at::Tensor& input, at::Tensor& output,
                                                Reduction reduction) override {
    expect_reducible(input, reduction);
    expect_piece(output, input, rank(), size());
    if (input.is_cpu()) return host_->start_reduce_scatter(input, output, reduction);
    sent_ += of_others() * static_cast<double>(input.nbytes());
    return launch(output, [&](cudaStream_t stream) {
      return ncclReduceScatter(input.data_ptr(), output.data_ptr(), count(output), type_of(input),
                               operation_of(reduction), comm_, stream);
    });
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& input, at::Tensor& output) override {
    expect_piece(input, output, rank(), size());
    if (input.is_cpu()) return host_->start_all_gather(input, output);
    sent_ += of_others() * static_cast<double>(output.nbytes());
    return launch(input, [&](cudaStream_t stream) {
      return ncclAllGather(input.data_ptr(), output.data_ptr(), count(input), type_of(input), comm_, stream);
    });
  }
  void broadcast(at::Tensor& tensor, int root) override {
    expect_communicable(tensor);
    EXPECT(root >= 0 && root < size());
    if (tensor.is_cpu()) return host_->broadcast(tensor, root);
    launch(tensor, [&](cudaStream_t stream) {
      return ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), count(tensor), type_of(tensor), root, comm_,
                           stream);
    })->wait();
  }
  void barrier() override { host_->barrier(); }
  /// What a ring sends; NCCL chooses its own way and does not say.
  double sent_bytes() const override { return sent_.load() + host_->sent_bytes(); }

 private:
  class InFlight final : public Pending {
   public:
    InFlight(NcclCommunicator& communicator, int64_t bytes) : communicator_(communicator), bytes_(bytes) {}
    at::cuda::CUDAEvent& end() { return end_; }
    bool test() override {
      {
        const std::scoped_lock lock(communicator_.mutex_);
        communicator_.poll();
      }
      return end_.query();
    }
    void wait() override {
      wait_until([&] { return test(); }, Backoff::for_transfer(bytes_));
    }

   private:
    NcclCommunicator& communicator_;
    int64_t bytes_;
    at::cuda::CUDAEvent end_;
  };

  double of_others() const { return (size() - 1.0) / size(); }
  static size_t count(const at::Tensor& tensor) { return static_cast<size_t>(tensor.numel()); }

  template <class Call>
  std::unique_ptr<Pending> launch(const at::Tensor& tensor, const Call& call) {
    EXPECT(tensor.device() == device_);
    if (tensor.numel() == 0) return std::make_unique<Done>();
    const std::scoped_lock lock(mutex_);
    const c10::cuda::CUDAGuard guard(device_);
    at::cuda::CUDAEvent ready;
    ready.record(c10::cuda::getCurrentCUDAStream(device_.index()));
    ready.block(stream_);
    if (comm_) NCCL_CHECK(comm_, call(stream_.stream()));
    settle();
    auto flight = std::make_unique<InFlight>(*this, tensor.numel() * tensor.element_size());
    flight->end().record(stream_);
    return flight;
  }

  /// What has gone wrong since the last look; NCCL's threads find it, not the calls. With the lock held:
  /// looking also ends what a non-blocking call began. After an error every look tells it again.
  ncclResult_t poll() {
    ncclResult_t state = ncclSuccess;
    if (comm_) NCCL_CHECK(comm_, ncclCommGetAsyncError(comm_, &state));
    if (comm_ && state != ncclSuccess && state != ncclInProgress) {
      failure_ = fmt::format("{} ({})", ncclGetErrorString(state), ncclGetLastError(comm_));
      ncclCommAbort(std::exchange(comm_, nullptr));  // its kernels would wait for ever
    }
    if (!comm_) fail(ExitCode::internal, "NCCL: {}", failure_);
    return state;
  }
  /// Waits until the last call has been taken: on the way, calls of a non-blocking communicator overlap.
  void settle() {
    wait_until([&] { return poll() == ncclSuccess; }, Backoff::for_transfer(0));
  }

  std::unique_ptr<Communicator> host_;
  at::Device device_;
  c10::cuda::CUDAStream stream_;
  ncclComm_t comm_ = nullptr;
  std::mutex mutex_;     // of all that NCCL is asked about comm_: threads start and test at once
  std::string failure_;  // why comm_ is gone
  std::atomic<double> sent_ = 0;
};

}  // namespace

bool has_nccl() {
  return true;
}

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, at::Device device) {
  EXPECT(device.is_cuda() && device.has_index());
  return std::make_unique<NcclCommunicator>(std::move(host), device);
}

}  // namespace surgery
