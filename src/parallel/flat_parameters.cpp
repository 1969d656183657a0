#include "parallel/flat_parameters.h"

#include "base/errors.h"

namespace surgery {
namespace {

struct Bucket {
  at::Tensor flat;   // [size]; without memory while it is released
  at::Tensor piece;  // a part of flat, or all of it; of its own with Sharding::parameters
  CollectiveQueue::Ticket gather = 0;
  bool whole = true;  // has memory, and the pieces are there or on their way
};

void give_memory(const at::Tensor& flat) {
  c10::StorageImpl* storage = flat.storage().unsafeGetStorageImpl();
  const auto bytes = static_cast<size_t>(flat.numel() * flat.element_size());
  if (storage->nbytes() == bytes) return;
  storage->set_data_ptr_noswap(c10::GetAllocator(flat.device().type())->allocate(bytes));
  storage->set_nbytes(bytes);
}

void take_memory(const at::Tensor& flat) {
  flat.storage().unsafeGetStorageImpl()->reset();
}

}  // namespace

struct FlatParameters::State {
  State(Communicator& c, Sharding s) : communicator(c), sharding(s), queue(c) {}

  Communicator& communicator;
  Sharding sharding;
  CollectiveQueue queue;
  std::vector<Bucket> buckets;
  std::vector<std::vector<size_t>> of_group;  // buckets
  std::vector<at::Tensor> pieces;

  void gather(Bucket& bucket) {
    give_memory(bucket.flat);
    bucket.whole = true;
    bucket.gather =
        queue.start([&](Communicator& ranks) { return ranks.start_all_gather(bucket.piece, bucket.flat); },
                    {bucket.piece, bucket.flat});
  }
};

FlatParameters::FlatParameters(Communicator& communicator, const BucketLayout& layout,
                               const std::vector<std::vector<at::Tensor>>& parameters,
                               const ReadParameter& values, Sharding sharding)
    : state_(std::make_unique<State>(communicator, sharding)) {
  EXPECT(parameters.size() == layout.buckets.size());
  state_->of_group.resize(layout.groups);
  const at::NoGradGuard no_gradient;
  for (size_t b = 0; b < parameters.size(); ++b) {
    const BucketLayout::Bucket& place = layout.buckets[b];
    EXPECT(parameters[b].size() == place.entries.size());
    Bucket bucket;
    bucket.flat = flatten(place, parameters[b].front().options().requires_grad(false), values);
    for (size_t i = 0; i < parameters[b].size(); ++i)
      at::Tensor(parameters[b][i]).set_data(view_of(bucket.flat, place.entries[i]));
    const int64_t length = place.size / communicator.size();
    bucket.piece = sharding == Sharding::none ? bucket.flat
                                              : bucket.flat.narrow(0, communicator.rank() * length, length);
    if (sharding == Sharding::parameters) {
      bucket.piece = bucket.piece.clone();
      take_memory(bucket.flat);
      bucket.whole = false;
    }
    state_->of_group[place.group].push_back(b);
    state_->pieces.push_back(bucket.piece);
    state_->buckets.push_back(std::move(bucket));
  }
}

FlatParameters::~FlatParameters() = default;

const std::vector<at::Tensor>& FlatParameters::pieces() const {
  return state_->pieces;
}

void FlatParameters::publish(const std::vector<size_t>& groups) {
  EXPECT(groups.size() == state_->of_group.size());
  for (const size_t group : groups)
    for (const size_t b : state_->of_group[group]) {
      if (state_->sharding == Sharding::optimizer) state_->gather(state_->buckets[b]);
      if (state_->sharding == Sharding::parameters) EXPECT(!state_->buckets[b].whole);
    }
}

void FlatParameters::settle() {
  state_->queue.wait_all();
}

void FlatParameters::prefetch(size_t group) {
  for (const size_t b : state_->of_group[group])
    if (!state_->buckets[b].whole) state_->gather(state_->buckets[b]);
}

void FlatParameters::need(size_t group) {
  prefetch(group);
  for (const size_t b : state_->of_group[group]) state_->queue.wait(state_->buckets[b].gather);
}

void FlatParameters::release(size_t group) {
  if (state_->sharding != Sharding::parameters) return;
  for (const size_t b : state_->of_group[group]) {
    Bucket& bucket = state_->buckets[b];
    if (!bucket.whole) continue;
    state_->queue.wait(bucket.gather);  // it may still be written into
    take_memory(bucket.flat);
    bucket.whole = false;
  }
}

double FlatParameters::exposed_seconds() const {
  return state_->queue.waited_seconds();
}
double FlatParameters::communication_seconds() const {
  return state_->queue.flight_seconds();
}

}  // namespace surgery
