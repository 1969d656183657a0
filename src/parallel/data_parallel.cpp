#include "parallel/data_parallel.h"

#include <algorithm>
#include <numeric>

#include "base/errors.h"
#include "parallel/flat_parameters.h"
#include "parallel/gradient_buckets.h"

namespace surgery {
namespace {

std::string bucket_name(size_t bucket) {
  return fmt::format("bucket-{:03d}", bucket);
}

/// The tensors of every bucket, in its order.
std::vector<std::vector<at::Tensor>> by_bucket(const BucketLayout& layout,
                                               const std::vector<ParameterGroup>& groups) {
  std::vector<std::vector<at::Tensor>> tensors;
  for (const BucketLayout::Bucket& bucket : layout.buckets) {
    std::map<std::string, at::Tensor> of_group(groups[bucket.group].begin(), groups[bucket.group].end());
    tensors.emplace_back();
    for (const auto& entry : bucket.entries) tensors.back().push_back(of_group.at(entry.name));
  }
  return tensors;
}

/// What the parameters hold themselves, as it is now.
ReadParameter held_by(const std::vector<ParameterGroup>& groups) {
  std::map<std::string, at::Tensor> all;
  for (const ParameterGroup& group : groups)
    for (const auto& [name, tensor] : group) all.emplace(name, tensor.detach());
  return [all = std::move(all)](const std::string& name) { return all.at(name); };
}

/// The groups as forward comes to them. The last holds what is outside the blocks: it is needed first.
std::vector<size_t> forward_order(size_t groups) {
  std::vector<size_t> order(groups);
  std::iota(order.begin(), order.end(), size_t{0});
  std::rotate(order.begin(), order.end() - 1, order.end());
  return order;
}

/// The buckets as backward completes them.
std::vector<size_t> backward_order(const BucketLayout& layout, size_t groups) {
  std::vector<size_t> order;
  for (const size_t group : forward_order(groups))
    for (size_t b = 0; b < layout.buckets.size(); ++b)
      if (layout.buckets[b].group == group) order.push_back(b);
  std::ranges::reverse(order);
  return order;
}

AdamW::Named named(const std::vector<at::Tensor>& pieces) {
  AdamW::Named result;
  for (size_t b = 0; b < pieces.size(); ++b) result.emplace_back(bucket_name(b), pieces[b]);
  return result;
}

}  // namespace

struct DataParallel::State {
  State(std::unique_ptr<Communicator> of_gradients, std::unique_ptr<Communicator> of_parameters,
        const std::vector<ParameterGroup>& groups, const Options& options, const ReadParameter& read)
      : sharding(options.sharding),
        layout(groups, of_gradients->size()),
        reductions(std::move(of_gradients)),
        gathers(std::move(of_parameters)),
        values(*gathers, layout, by_bucket(layout, groups), read, sharding),
        gradients(*reductions, layout, by_bucket(layout, groups), backward_order(layout, groups.size()),
                  sharding),
        optimizer(named(values.pieces()), options.adamw),
        group_count(groups.size()),
        average_decay(options.average_decay) {}

  Sharding sharding;
  BucketLayout layout;
  std::unique_ptr<Communicator> reductions, gathers;
  FlatParameters values;
  GradientBuckets gradients;
  AdamW optimizer;
  size_t group_count;
  double average_decay;
  std::vector<at::Tensor> averages;  // of the pieces; none without average_decay

  int rank() const { return reductions->rank(); }
  int ranks() const { return reductions->size(); }
  /// Where this rank's part that it updates begins in a bucket.
  int64_t piece_begin(size_t bucket) const {
    return sharding == Sharding::none ? 0 : layout.buckets[bucket].size / ranks() * rank();
  }
  /// A bucket's fp32 values among the optimizer's.
  at::Tensor master(size_t bucket, const std::map<std::string, at::Tensor>& state) const {
    const auto found = state.find("master." + bucket_name(bucket));
    return found == state.end() ? values.pieces()[bucket] : found->second;
  }
  std::vector<at::Tensor> masters() const {
    const auto state = optimizer.state();
    std::vector<at::Tensor> all;
    for (size_t b = 0; b < layout.buckets.size(); ++b) all.push_back(master(b, state));
    return all;
  }
  /// `parameter`, `exp_avg`, ... of a bucket, of which `state` is the optimizer's.
  std::map<std::string, at::Tensor> slots(size_t bucket,
                                          const std::map<std::string, at::Tensor>& state) const {
    const std::string name = bucket_name(bucket);
    std::map<std::string, at::Tensor> all{{"parameter", master(bucket, state)},
                                          {"exp_avg", state.at("exp_avg." + name)},
                                          {"exp_avg_sq", state.at("exp_avg_sq." + name)}};
    if (!averages.empty()) all["average"] = averages[bucket];
    return all;
  }
  void average() {
    if (averages.empty()) return;
    const at::NoGradGuard no_gradient;
    const auto n = static_cast<double>(optimizer.steps());
    at::_foreach_lerp_(averages, masters(), 1 - std::min(average_decay, (1 + n) / (10 + n)));
  }
};

DataParallel::DataParallel(std::unique_ptr<Communicator> gradients, std::unique_ptr<Communicator> parameters,
                           const std::vector<ParameterGroup>& groups, const Options& options,
                           const ReadParameter& values) {
  const ReadParameter exact = values ? values : held_by(groups);
  state_ = std::make_unique<State>(std::move(gradients), std::move(parameters), groups, options, exact);
  for (size_t b = 0; b < state_->layout.buckets.size(); ++b) {
    const BucketLayout::Bucket& bucket = state_->layout.buckets[b];
    if (bucket.type == at::kFloat) continue;
    const at::Tensor& piece = state_->values.pieces()[b];
    const at::Tensor whole = flatten(bucket, piece.options().dtype(at::kFloat), exact);
    state_->optimizer.set_master(bucket_name(b), whole.narrow(0, state_->piece_begin(b), piece.numel()));
  }
  if (options.average_decay > 0)
    for (const at::Tensor& master : state_->masters()) state_->averages.push_back(master.clone());
}

DataParallel::~DataParallel() = default;

void DataParallel::zero() {
  state_->gradients.zero();
}
void DataParallel::begin_micro_step(bool last) {
  state_->gradients.begin_micro_step(last);
}

double DataParallel::finish(double clip) {
  state_->gradients.finish();
  release_all();
  Communicator* shards = state_->sharding == Sharding::none ? nullptr : state_->reductions.get();
  return clip_gradients(state_->gradients.pieces(), clip, shards).item<double>();
}

std::string DataParallel::first_bad() const {
  for (size_t b = 0; b < state_->layout.buckets.size(); ++b) {
    const at::Tensor bad = at::isfinite(state_->gradients.pieces()[b]).logical_not().nonzero();
    if (bad.numel() == 0) continue;
    const int64_t at = state_->piece_begin(b) + bad[0][0].item<int64_t>();
    for (const auto& entry : state_->layout.buckets[b].entries)
      if (at < entry.offset + entry.count) return entry.name;
  }
  return {};
}

void DataParallel::update(double learning_rate) {
  state_->values.settle();
  state_->optimizer.step(state_->gradients.pieces(), learning_rate);
  state_->average();
  state_->values.publish(forward_order(state_->group_count));
}

int64_t DataParallel::steps() const {
  return state_->optimizer.steps();
}

void DataParallel::need(size_t group) {
  state_->values.need(group);
}
void DataParallel::prefetch(size_t group) {
  state_->values.prefetch(group);
}
void DataParallel::release(size_t group) {
  state_->values.release(group);
}
void DataParallel::need_all() {
  for (const size_t group : forward_order(state_->group_count)) need(group);
}

void DataParallel::release_all() {
  for (size_t group = 0; group < state_->group_count; ++group) release(group);
}

void DataParallel::settle() {
  state_->values.settle();
}
size_t DataParallel::reductions_begun() const {
  return state_->gradients.launched();
}

std::map<std::string, at::Tensor> DataParallel::state_piece() const {
  const State& s = *state_;
  const auto state = s.optimizer.state();
  std::map<std::string, at::Tensor> result;
  for (size_t b = 0; b < s.layout.buckets.size(); ++b) {
    const int64_t length = s.layout.buckets[b].size / s.ranks();
    const int64_t skip = s.sharding == Sharding::none ? length * s.rank() : 0;
    for (const auto& [what, tensor] : s.slots(b, state))
      result[bucket_name(b) + "." + what] = tensor.narrow(0, skip, length);
  }
  return result;
}

const BucketLayout& DataParallel::layout() const {
  return state_->layout;
}

void DataParallel::load(const ReadState& read, int64_t steps) {
  State& s = *state_;
  const at::NoGradGuard no_gradient;
  s.values.settle();
  release_all();
  auto state = s.optimizer.state();
  for (size_t b = 0; b < s.layout.buckets.size(); ++b)
    for (const auto& [what, piece] : s.slots(b, state))
      for (const auto& entry : s.layout.buckets[b].entries) {
        const int64_t first = s.piece_begin(b), last = first + piece.numel();
        const int64_t begin = std::max(entry.offset, first), end = std::min(entry.offset + entry.count, last);
        if (begin >= end) continue;
        const at::Tensor part = read(what, entry.name, begin - entry.offset, end - begin);
        EXPECT(part.scalar_type() == at::kFloat && part.numel() == end - begin);
        piece.narrow(0, begin - first, end - begin).copy_(part.view(-1));
      }
  state["step"] = at::tensor({steps}, at::kLong);
  s.optimizer.load(state);  // and sets what is rounded from its master
  s.values.publish(forward_order(s.group_count));
}

double DataParallel::exposed_seconds() const {
  return state_->gradients.exposed_seconds() + state_->values.exposed_seconds();
}
double DataParallel::communication_seconds() const {
  return state_->gradients.communication_seconds() + state_->values.communication_seconds();
}
double DataParallel::sent_bytes() const {
  return state_->reductions->sent_bytes() + state_->gathers->sent_bytes();
}

}  // namespace surgery
