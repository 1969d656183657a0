#include "parallel/gradient_buckets.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "base/errors.h"

namespace surgery {
namespace {

struct Parameter {
  at::Tensor tensor;
  BucketLayout::Entry place;
  std::shared_ptr<torch::autograd::Node> accumulator;  // kept alive: the hook lives in it
  uintptr_t hook = 0;
  size_t bucket = 0;
  bool written = false;  // the bucket holds a gradient of this step
  bool ready = false;
};

struct Bucket {
  int64_t size = 0;
  at::TensorOptions options;
  at::Tensor flat;   // [size]; undefined while its memory is not there
  at::Tensor piece;  // [size / ranks], or flat
  size_t parameters = 0, ready = 0;
  bool launched = false;
};

}  // namespace

struct GradientBuckets::State {
  State(Communicator& c, Sharding s) : communicator(c), sharding(s), queue(c) {}

  Communicator& communicator;
  Sharding sharding;
  CollectiveQueue queue;
  std::vector<std::vector<Parameter>> parameters;  // by bucket
  std::vector<Bucket> buckets;
  std::vector<at::Tensor> pieces;
  bool communicates = true;  // in this micro-step
  bool begun = false;        // a micro-step of this step

  std::mutex mutex;  // hooks may come from autograd's threads
  std::vector<size_t> order;
  size_t launched = 0;  // buckets order[0 .. launched) are

  bool transient() const { return sharding == Sharding::parameters; }
  void add_bucket(const BucketLayout::Bucket& layout, const std::vector<at::Tensor>& tensors);
  void hook_up(Parameter& parameter);
  void arrived(Parameter& parameter);
  void accumulate(Parameter& parameter, Bucket& bucket);
  void launch(size_t b);
  void launch_complete();
  void launch_all();
  void await_gradients();
};

void GradientBuckets::State::add_bucket(const BucketLayout::Bucket& layout,
                                        const std::vector<at::Tensor>& tensors) {
  EXPECT(tensors.size() == layout.entries.size());
  Bucket bucket;
  bucket.size = layout.size;
  bucket.options = tensors.front().options().dtype(at::kFloat).requires_grad(false);
  bucket.parameters = tensors.size();
  const int64_t length = layout.size / communicator.size();
  if (transient()) {
    bucket.piece = at::zeros({length}, bucket.options);
  } else {
    bucket.flat = at::zeros({layout.size}, bucket.options);
    bucket.piece = sharding == Sharding::none ? bucket.flat
                                              : bucket.flat.narrow(0, communicator.rank() * length, length);
  }
  parameters.emplace_back();
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT(tensors[i].requires_grad() && tensors[i].is_leaf());
    EXPECT(tensors[i].numel() == layout.entries[i].count);
    Parameter parameter;
    parameter.tensor = tensors[i];
    parameter.place = layout.entries[i];
    parameter.bucket = buckets.size();
    parameters.back().push_back(std::move(parameter));
  }
  pieces.push_back(bucket.piece);
  buckets.push_back(std::move(bucket));
}

void GradientBuckets::State::hook_up(Parameter& parameter) {
  parameter.accumulator = torch::autograd::impl::grad_accumulator(parameter.tensor);
  EXPECT(parameter.accumulator);
  parameter.hook =
      parameter.accumulator->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
          [this, &parameter](const torch::autograd::variable_list& outputs,
                             const torch::autograd::variable_list&) {
            arrived(parameter);
            return outputs;
          }));
}

/// Autograd has accumulated into this parameter's gradient.
void GradientBuckets::State::arrived(Parameter& parameter) {
  const std::scoped_lock lock(mutex);
  Bucket& bucket = buckets[parameter.bucket];
  if (bucket.launched)
    fail(ExitCode::internal,
         "a gradient arrived after its bucket had been sent (it would be lost): call zero() and "
         "begin_micro_step() before backward, and use a parameter in one recomputed part only");
  accumulate(parameter, bucket);
  if (!communicates || parameter.ready) return;
  parameter.ready = true;
  ++bucket.ready;
  launch_complete();
}

/// The gradient of a parameter that is no view of the bucket belongs into it.
void GradientBuckets::State::accumulate(Parameter& parameter, Bucket& bucket) {
  at::Tensor& gradient = parameter.tensor.mutable_grad();
  if (!gradient.defined() || (bucket.flat.defined() && gradient.is_alias_of(bucket.flat))) return;
  const at::NoGradGuard no_gradient;
  if (!bucket.flat.defined()) bucket.flat = at::zeros({bucket.size}, bucket.options);
  const at::Tensor view = view_of(bucket.flat, parameter.place);
  if (parameter.written)
    view.add_(gradient);
  else
    view.copy_(gradient);  // over the last step's
  parameter.written = true;
  const bool keeps_view = !transient() && parameter.tensor.scalar_type() == at::kFloat;
  gradient = keeps_view ? view : at::Tensor();
}

void GradientBuckets::State::launch_complete() {
  while (launched < buckets.size()) {
    const Bucket& next = buckets[order[launched]];
    if (next.ready < next.parameters) return;
    launch(order[launched]);
  }
}

void GradientBuckets::State::launch_all() {
  while (launched < buckets.size()) launch(order[launched]);
}

void GradientBuckets::State::launch(size_t b) {
  Bucket& bucket = buckets[b];
  bucket.launched = true;
  ++launched;
  if (!transient()) {  // what took no part has the last step's there still
    const at::NoGradGuard no_gradient;
    for (const Parameter& parameter : parameters[b])
      if (!parameter.written) view_of(bucket.flat, parameter.place).zero_();
  }
  if (sharding == Sharding::none) {
    queue.start([&](Communicator& ranks) { return ranks.start_all_reduce(bucket.flat, Reduction::mean); },
                {bucket.flat});
    return;
  }
  if (!transient()) {
    queue.start(
        [&](Communicator& ranks) {
          return ranks.start_reduce_scatter(bucket.flat, bucket.piece, Reduction::mean);
        },
        {bucket.flat});
    return;
  }
  at::Tensor flat = std::exchange(bucket.flat, {});
  if (!flat.defined()) flat = at::zeros({bucket.size}, bucket.options);
  const int64_t length = bucket.piece.numel();
  at::Tensor piece = flat.narrow(0, communicator.rank() * length, length);
  queue.start([&](Communicator& ranks) { return ranks.start_reduce_scatter(flat, piece, Reduction::mean); },
              {flat, piece},
              [sum = bucket.piece, piece] {
                const at::NoGradGuard no_gradient;
                sum.add_(piece);
              });
}

/// A backward is about to bring every bucket's gradients.
void GradientBuckets::State::await_gradients() {
  launched = 0;
  for (Bucket& bucket : buckets) {
    bucket.ready = 0;
    bucket.launched = false;
  }
  for (auto& group : parameters)
    for (Parameter& parameter : group) parameter.ready = parameter.written = false;
}

GradientBuckets::GradientBuckets(Communicator& communicator, const BucketLayout& layout,
                                 std::vector<std::vector<at::Tensor>> parameters, std::vector<size_t> order,
                                 Sharding sharding)
    : state_(std::make_unique<State>(communicator, sharding)) {
  EXPECT(!layout.buckets.empty() && parameters.size() == layout.buckets.size());
  EXPECT(std::set<size_t>(order.begin(), order.end()).size() == layout.buckets.size());
  EXPECT(order.size() == layout.buckets.size() && std::ranges::max(order) < order.size());
  state_->order = std::move(order);
  std::set<const void*> seen;
  for (size_t b = 0; b < parameters.size(); ++b) {
    for (const at::Tensor& parameter : parameters[b])
      EXPECT(seen.insert(parameter.unsafeGetTensorImpl()).second);
    state_->add_bucket(layout.buckets[b], parameters[b]);
  }
  for (auto& group : state_->parameters)
    for (Parameter& parameter : group) state_->hook_up(parameter);
  zero();
}

GradientBuckets::~GradientBuckets() {
  for (auto& group : state_->parameters)
    for (Parameter& parameter : group) {
      parameter.accumulator->del_post_hook(parameter.hook);
      parameter.tensor.mutable_grad() = at::Tensor();
    }
}

void GradientBuckets::zero() {
  State& state = *state_;
  state.queue.wait_all();  // after an error on the way something may be in flight
  const std::scoped_lock lock(state.mutex);
  state.await_gradients();
  state.begun = false;
  if (state.transient())
    for (Bucket& bucket : state.buckets) {
      bucket.flat = at::Tensor();  // of a step that broke off
      bucket.piece.zero_();
    }
  for (auto& group : state.parameters)
    for (Parameter& parameter : group) parameter.tensor.mutable_grad() = at::Tensor();
}

void GradientBuckets::begin_micro_step(bool last) {
  State& state = *state_;
  const std::scoped_lock lock(state.mutex);
  if (state.transient() && state.begun) {
    state.launch_all();  // of the micro-step before: what its backward did not complete
    state.await_gradients();
  }
  state.begun = true;
  state.communicates = last || state.transient();
}

void GradientBuckets::finish() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->launch_all();  // what backward did not complete counts as it is
  }
  state_->queue.wait_all();
}

size_t GradientBuckets::launched() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->launched;
}
const std::vector<at::Tensor>& GradientBuckets::pieces() const {
  return state_->pieces;
}

double GradientBuckets::exposed_seconds() const {
  return state_->queue.waited_seconds();
}
double GradientBuckets::communication_seconds() const {
  return state_->queue.flight_seconds();
}

}  // namespace surgery
