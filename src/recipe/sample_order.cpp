#include "recipe/sample_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/errors.h"

namespace surgery {

namespace {

void shuffle(std::vector<int64_t>& values, RandomKey key) {
  RandomStream random(key);
  for (int64_t i = std::ssize(values) - 1; i > 0; --i)
    std::swap(values[static_cast<size_t>(i)], values[static_cast<size_t>(random.below(i + 1))]);
}

int64_t total_of(const std::vector<SampleRun>& runs) {
  int64_t total = 0;
  for (const SampleRun& run : runs) total += run.count;
  return total;
}

std::vector<int64_t> samples_of(const std::vector<SampleRun>& runs) {
  std::vector<int64_t> samples;
  for (const SampleRun& run : runs)
    for (int64_t i = 0; i < run.count; ++i) samples.push_back(run.first + i);
  return samples;
}

std::vector<SampleRun> only(std::vector<SampleRun> runs, int64_t SampleRun::*member, int64_t value) {
  std::erase_if(runs, [&](const SampleRun& run) { return run.*member != value || run.count == 0; });
  return runs;
}

/// Of every set, the part of all draws: its weight, 0 for a set without samples.
std::vector<double> shares_of(const std::vector<SampleRun>& runs, std::vector<double> weights) {
  for (size_t set = 0; set < weights.size(); ++set)
    if (only(runs, &SampleRun::set, static_cast<int64_t>(set)).empty()) weights[set] = 0;
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

}  // namespace

int64_t SampleOrder::Walk::at(int64_t position) {
  const int64_t epoch = position / size();
  if (epoch != epoch_) {
    order_ = samples_;
    shuffle(order_, key_.with(static_cast<uint64_t>(epoch)));
    epoch_ = epoch;
  }
  return order_[static_cast<size_t>(position % size())];
}

SampleOrder::SampleOrder(RandomKey key, const std::vector<SampleRun>& runs,
                         const std::vector<double>& weights, int64_t batch)
    : key_(key), batch_(batch) {
  const int64_t total = total_of(runs);
  EXPECT(batch > 0 && total > 0);
  const std::vector<double> shares = shares_of(runs, weights);
  const int64_t last = std::ranges::max_element(runs, {}, &SampleRun::shape)->shape;
  for (int64_t shape = 0; shape <= last; ++shape) add_stream(shape, runs, shares, static_cast<double>(total));
}

void SampleOrder::add_stream(int64_t shape, const std::vector<SampleRun>& runs,
                             const std::vector<double>& shares, double total) {
  // The first shape keeps the plain key: a set of one shape has one order, whatever else could be.
  Stream stream{.key = shape == 0 ? key_ : key_.with("shape").with(static_cast<uint64_t>(shape))};
  const std::vector<SampleRun> here = only(runs, &SampleRun::shape, shape);
  if (shares.empty() && !here.empty()) {
    stream.walks.emplace_back(stream.key, samples_of(here));
    stream.samples = static_cast<double>(total_of(here));
  }
  for (size_t set = 0; set < shares.size(); ++set) {
    const std::vector<SampleRun> mine = only(here, &SampleRun::set, static_cast<int64_t>(set));
    if (mine.empty()) continue;
    const auto whole = static_cast<double>(total_of(only(runs, &SampleRun::set, static_cast<int64_t>(set))));
    stream.samples += shares[set] * total * static_cast<double>(total_of(mine)) / whole;
    stream.reach.push_back(stream.samples);
    stream.walks.emplace_back(stream.key.with("set").with(static_cast<uint64_t>(set)), samples_of(mine));
  }
  for (double& reach : stream.reach) reach /= stream.samples;
  stream.taken.assign(stream.walks.size(), 0);
  streams_.push_back(std::move(stream));
}

int64_t SampleOrder::sample(Stream& stream, int64_t position) {
  if (stream.walks.size() == 1) return stream.walks[0].at(position);
  if (position < stream.drawn) {
    stream.drawn = 0;
    std::ranges::fill(stream.taken, 0);
  }
  size_t walk = 0;
  for (; stream.drawn <= position; ++stream.drawn) {
    const double u =
        RandomStream(stream.key.with("draw").with(static_cast<uint64_t>(stream.drawn))).uniform();
    walk = static_cast<size_t>(std::ranges::upper_bound(stream.reach, u) - stream.reach.begin());
    walk = std::min(walk, stream.walks.size() - 1);
    ++stream.taken[walk];
  }
  return stream.walks[walk].at(stream.taken[walk] - 1);
}

/// Full batches of a shape after so many epochs.
int64_t SampleOrder::batches(const Stream& stream, int64_t epochs) const {
  return static_cast<int64_t>(
      std::floor(static_cast<double>(epochs) * stream.samples / static_cast<double>(batch_)));
}

int64_t SampleOrder::batches(int64_t epochs) const {
  int64_t sum = 0;
  for (const Stream& stream : streams_) sum += batches(stream, epochs);
  return sum;
}

/// Finds the epoch in which the step's batch becomes full, and shuffles the shapes of its batches.
void SampleOrder::open_epoch(int64_t step) {
  if (epoch_ >= 0 && step >= epoch_begin_ && step < epoch_begin_ + std::ssize(shapes_)) return;
  int64_t below = 0, above = 1;
  while (batches(above) <= step) below = above, above *= 2;
  while (above - below > 1) {
    const int64_t middle = below + (above - below) / 2;
    (batches(middle) <= step ? below : above) = middle;
  }
  epoch_ = below;
  epoch_begin_ = batches(epoch_);
  shapes_.clear();
  for (size_t shape = 0; shape < streams_.size(); ++shape)
    shapes_.insert(
        shapes_.end(),
        static_cast<size_t>(batches(streams_[shape], epoch_ + 1) - batches(streams_[shape], epoch_)),
        static_cast<int64_t>(shape));
  shuffle(shapes_, key_.with("batches").with(static_cast<uint64_t>(epoch_)));
}

SampleOrder::Batch SampleOrder::at(int64_t step) {
  open_epoch(step);
  const auto here = shapes_.begin() + (step - epoch_begin_);
  Batch batch{.shape = *here, .samples = {}};
  Stream& stream = streams_[static_cast<size_t>(batch.shape)];
  const int64_t number = batches(stream, epoch_) + std::count(shapes_.begin(), here, batch.shape);
  for (int64_t i = 0; i < batch_; ++i) batch.samples.push_back(sample(stream, number * batch_ + i));
  return batch;
}

}  // namespace surgery
