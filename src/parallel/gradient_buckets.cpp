#include "parallel/gradient_buckets.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>

#include "base/errors.h"
#include "parallel/backoff.h"
#include "parallel/quiet_thread.h"

namespace surgery {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t alignment = 64;  // elements: every gradient starts on its own cache line

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

struct Parameter {
  at::Tensor tensor;
  at::Tensor gradient;                                 // view of the bucket, fp32
  std::shared_ptr<torch::autograd::Node> accumulator;  // kept alive: the hook lives in it
  uintptr_t hook = 0;
  size_t bucket = 0;
  bool ready = false;
};

struct Bucket {
  at::Tensor flat;  // [padded], fp32
  size_t parameters = 0, ready = 0;
  bool launched = false, done = false;
  Clock::time_point launch;
  std::unique_ptr<Communicator::Pending> pending;
};

}  // namespace

struct GradientBuckets::State {
  explicit State(Communicator& c) : communicator(c) {}

  Communicator& communicator;
  std::vector<Parameter> parameters;
  std::vector<Bucket> buckets;
  std::vector<at::Tensor> gradients, flats;
  bool last_micro_step = true;
  double exposed = 0, communication = 0;

  std::mutex mutex;  // hooks may come from autograd's threads; the driver has its own
  std::condition_variable changed;
  size_t next = 0;    // buckets[next] is launched next; those before it are in flight or done
  size_t driven = 0;  // buckets[driven] is finished next
  bool quit = false;
  std::exception_ptr broken;
  std::thread driver;

  void add_group(const std::vector<at::Tensor>& group);
  void hook_up(Parameter& parameter);
  void arrived(Parameter& parameter);
  void launch_next();
  void launch_complete();
  void drive();
};

void GradientBuckets::State::add_group(const std::vector<at::Tensor>& group) {
  EXPECT(!group.empty());
  int64_t total = 0;
  for (const at::Tensor& tensor : group) total += round_up(tensor.numel(), alignment);
  total = round_up(total, alignment * communicator.size());
  Bucket bucket;
  bucket.flat = at::zeros({total}, group.front().options().dtype(at::kFloat).requires_grad(false));
  bucket.parameters = group.size();
  int64_t offset = 0;
  for (const at::Tensor& tensor : group) {
    EXPECT(tensor.requires_grad() && tensor.is_leaf());
    EXPECT(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
    EXPECT(tensor.device() == bucket.flat.device());
    Parameter parameter;
    parameter.tensor = tensor;
    parameter.gradient = bucket.flat.narrow(0, offset, tensor.numel()).view(tensor.sizes());
    parameter.bucket = buckets.size();
    parameters.push_back(std::move(parameter));
    offset += round_up(tensor.numel(), alignment);
  }
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
         "a gradient arrived after its bucket had been sent (it would be lost): call zero() before backward, "
         "expect_last_micro_step(false) before all but the last, and use a parameter in one recomputed part "
         "only");
  at::Tensor& gradient = parameter.tensor.mutable_grad();
  if (gradient.defined() && !gradient.is_alias_of(parameter.gradient)) {
    // A bf16 parameter, or somebody replaced the view: the sum belongs into the bucket.
    const at::NoGradGuard no_gradient;
    parameter.gradient.add_(gradient);
    gradient = parameter.tensor.scalar_type() == at::kFloat ? parameter.gradient : at::Tensor();
  }
  if (!last_micro_step || parameter.ready) return;
  parameter.ready = true;
  ++bucket.ready;
  launch_complete();
}

void GradientBuckets::State::launch_complete() {
  while (next < buckets.size() && buckets[next].ready == buckets[next].parameters) launch_next();
}

void GradientBuckets::State::launch_next() {
  Bucket& bucket = buckets[next++];
  bucket.launched = true;
  bucket.launch = Clock::now();
  bucket.pending = communicator.start_all_reduce(bucket.flat, Reduction::mean);
  changed.notify_all();
}

/// The driver's loop: the transfers advance only when someone asks MPI about them.
void GradientBuckets::State::drive() {
  std::unique_lock lock(mutex);
  Backoff backoff = Backoff::beside_computation();
  while (!quit) {
    if (broken || driven == next) {
      changed.wait(lock);
      continue;
    }
    Bucket& bucket = buckets[driven];
    bool done = false;
    lock.unlock();
    try {
      for (int i = 0; i < 8 && !done; ++i) done = bucket.pending->test();
      if (!done) backoff.pause();
    } catch (...) {
      lock.lock();
      broken = std::current_exception();
      changed.notify_all();
      continue;
    }
    lock.lock();
    if (!done) continue;
    backoff.reset();
    bucket.pending.reset();
    bucket.done = true;
    communication += seconds_between(bucket.launch, Clock::now());
    ++driven;
    changed.notify_all();
  }
}

GradientBuckets::GradientBuckets(Communicator& communicator, std::vector<std::vector<at::Tensor>> groups)
    : state_(std::make_unique<State>(communicator)) {
  EXPECT(!groups.empty());
  std::set<const void*> seen;
  for (const auto& group : groups)
    for (const at::Tensor& tensor : group) EXPECT(seen.insert(tensor.unsafeGetTensorImpl()).second);
  // Buckets are kept in the order of their launch.
  for (auto group = groups.rbegin(); group != groups.rend(); ++group) state_->add_group(*group);
  for (Parameter& parameter : state_->parameters) state_->hook_up(parameter);
  for (const Bucket& bucket : state_->buckets) state_->flats.push_back(bucket.flat);
  for (size_t b = state_->buckets.size(); b-- > 0;)
    for (const Parameter& parameter : state_->parameters)
      if (parameter.bucket == b) state_->gradients.push_back(parameter.gradient);
  std::reverse(state_->flats.begin(), state_->flats.end());
  if (communicator.size() > 1)
    state_->driver = start_quiet_thread([state = state_.get()] { state->drive(); });
  zero();
}

GradientBuckets::~GradientBuckets() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->quit = true;
  }
  state_->changed.notify_all();
  if (state_->driver.joinable()) state_->driver.join();
  for (Parameter& parameter : state_->parameters) {
    parameter.accumulator->del_post_hook(parameter.hook);
    parameter.tensor.mutable_grad() = at::Tensor();
  }
  // An error in mid-flight: MPI may still write into these buffers, so they must not be freed.
  for (Bucket& bucket : state_->buckets)
    if (bucket.pending) {
      [[maybe_unused]] auto* leaked = new at::Tensor(bucket.flat);
      [[maybe_unused]] auto* in_flight = bucket.pending.release();
    }
}

void GradientBuckets::zero() {
  const std::scoped_lock lock(state_->mutex);
  EXPECT(state_->driven == state_->next || state_->communicator.size() == 1);
  state_->next = state_->driven = 0;
  for (Bucket& bucket : state_->buckets) {
    bucket.flat.zero_();
    bucket.ready = 0;
    bucket.launched = bucket.done = false;
  }
  for (Parameter& parameter : state_->parameters) {
    parameter.ready = false;
    parameter.tensor.mutable_grad() =
        parameter.tensor.scalar_type() == at::kFloat ? parameter.gradient : at::Tensor();
  }
}

void GradientBuckets::expect_last_micro_step(bool last) {
  const std::scoped_lock lock(state_->mutex);
  state_->last_micro_step = last;
}

void GradientBuckets::finish() {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  const Clock::time_point begin = Clock::now();
  while (state.next < state.buckets.size())
    state.launch_next();  // what backward did not complete counts as it is
  if (!state.driver.joinable()) {
    state.driven = state.next;
    for (Bucket& bucket : state.buckets) bucket.pending.reset();
    return;
  }
  state.changed.wait(lock, [&] { return state.broken || state.driven == state.buckets.size(); });
  state.exposed += seconds_between(begin, Clock::now());
  if (state.broken) std::rethrow_exception(state.broken);
}

const std::vector<at::Tensor>& GradientBuckets::gradients() const {
  return state_->gradients;
}
const std::vector<at::Tensor>& GradientBuckets::flat() const {
  return state_->flats;
}

double GradientBuckets::exposed_seconds() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->exposed;
}
double GradientBuckets::communication_seconds() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->communication;
}

}  // namespace surgery
