#include "recipe/sample_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace surgery {
namespace {

constexpr RandomKey kKey{7, 0};

std::vector<int64_t> samples_of(SampleOrder& order, int64_t begin, int64_t end) {
  std::vector<int64_t> samples;
  for (int64_t step = begin; step < end; ++step)
    for (const int64_t sample : order.at(step).samples) samples.push_back(sample);
  return samples;
}

// The rule of a set of one shape, told in full: what was trained with it goes on as it began.
TEST(SampleOrder, OneShapeIsWalkedInShuffledEpochs) {
  SampleOrder order(kKey, {{.first = 0, .count = 4}, {.first = 4, .count = 3}}, {}, 4);
  std::vector<int64_t> expected;
  for (uint64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<int64_t> samples(7);
    std::iota(samples.begin(), samples.end(), 0);
    RandomStream random(kKey.with(epoch));
    for (int64_t i = 6; i > 0; --i)
      std::swap(samples[static_cast<size_t>(i)], samples[static_cast<size_t>(random.below(i + 1))]);
    expected.insert(expected.end(), samples.begin(), samples.end());
  }
  EXPECT_EQ(samples_of(order, 0, 7), expected);
}

const std::vector<SampleRun> kTwoShapes{{.shape = 0, .first = 0, .count = 10},
                                        {.shape = 1, .first = 10, .count = 5},
                                        {.shape = 0, .first = 15, .count = 7},
                                        {.shape = 2, .first = 22, .count = 3}};

int64_t shape_of(int64_t sample) {
  return sample < 10 || (sample >= 15 && sample < 22) ? 0 : sample < 15 ? 1 : 2;
}

TEST(SampleOrder, ABatchIsOfOneShape) {
  SampleOrder order(kKey, kTwoShapes, {}, 4);
  std::set<int64_t> shapes;
  for (int64_t step = 0; step < 60; ++step) {
    const auto batch = order.at(step);
    shapes.insert(batch.shape);
    EXPECT_EQ(batch.samples.size(), 4u);
    for (const int64_t sample : batch.samples) EXPECT_EQ(shape_of(sample), batch.shape);
  }
  EXPECT_EQ(shapes, (std::set<int64_t>{0, 1, 2}));
}

TEST(SampleOrder, EverySampleIsUsedOnceInAnEpochOfItsShape) {
  SampleOrder order(kKey, kTwoShapes, {}, 4);
  std::map<int64_t, std::vector<int64_t>> walked;
  // 25 samples fill 25 batches of 4 in 4 epochs.
  for (int64_t step = 0; step < 25; ++step) {
    const auto batch = order.at(step);
    auto& walk = walked[batch.shape];
    walk.insert(walk.end(), batch.samples.begin(), batch.samples.end());
  }
  for (const auto& [shape, size] : std::map<int64_t, size_t>{{0, 17}, {1, 5}, {2, 3}}) {
    ASSERT_EQ(walked[shape].size(), 4 * size) << "four epochs of shape " << shape << ", nothing left out";
    for (size_t epoch = 0; epoch < 4; ++epoch) {
      const auto begin = walked[shape].begin() + static_cast<std::ptrdiff_t>(epoch * size);
      const std::set<int64_t> once(begin, begin + static_cast<std::ptrdiff_t>(size));
      EXPECT_EQ(once.size(), size) << "epoch " << epoch << " of shape " << shape;
    }
  }
}

TEST(SampleOrder, ShapesAreMixedAndTheSeedDecides) {
  const std::vector<SampleRun> runs{{.shape = 0, .first = 0, .count = 40},
                                    {.shape = 1, .first = 40, .count = 40}};
  const auto shapes = [&](RandomKey key) {
    SampleOrder order(key, runs, {}, 4);
    std::vector<int64_t> found;
    for (int64_t step = 0; step < 20; ++step) found.push_back(order.at(step).shape);
    return found;
  };
  const auto found = shapes(kKey);
  EXPECT_EQ(std::count(found.begin(), found.end(), 0), 10);
  int64_t changes = 0;
  for (size_t i = 1; i < found.size(); ++i) changes += found[i] != found[i - 1];
  EXPECT_GT(changes, 3);
  EXPECT_EQ(found, shapes(kKey));
  EXPECT_NE(found, shapes({8, 0}));
}

/// A run that is continued, or a rank that asks for other steps, sees the same.
TEST(SampleOrder, AStepDependsOnNoStepBefore) {
  for (const std::vector<double>& weights : {std::vector<double>{}, std::vector<double>{1, 3}}) {
    std::vector<SampleRun> runs = kTwoShapes;
    runs[2].set = 1;
    SampleOrder walked(kKey, runs, weights, 4);
    std::vector<SampleOrder::Batch> batches;
    for (int64_t step = 0; step < 40; ++step) batches.push_back(walked.at(step));
    for (const int64_t step : {39, 3, 17, 16, 0, 28}) {
      SampleOrder fresh(kKey, runs, weights, 4);
      EXPECT_EQ(fresh.at(step).samples, batches[static_cast<size_t>(step)].samples);
      EXPECT_EQ(walked.at(step).samples, batches[static_cast<size_t>(step)].samples);
    }
  }
}

TEST(SampleOrder, ABatchLargerThanTheSetRepeatsIt) {
  SampleOrder order(kKey, {{.count = 3}}, {}, 1000);
  const auto batch = order.at(2).samples;
  for (int64_t sample = 0; sample < 3; ++sample)
    EXPECT_NEAR(static_cast<double>(std::count(batch.begin(), batch.end(), sample)), 333, 1);
}

TEST(SampleOrder, WeightsAreSharesOfTheDraws) {
  // A set of 900 and one of 100, three quarters to the small one.
  const std::vector<SampleRun> runs{{.set = 0, .first = 0, .count = 900},
                                    {.set = 1, .first = 900, .count = 100}};
  SampleOrder order(kKey, runs, {0.5, 1.5}, 10);
  const auto samples = samples_of(order, 0, 1000);
  const auto small = std::ranges::count_if(samples, [](int64_t sample) { return sample >= 900; });
  EXPECT_NEAR(static_cast<double>(small) / 10'000, 0.75, 0.02);
  // Each walks epochs of its own: no sample comes a second time before all have come once.
  std::map<int64_t, int64_t> uses;
  for (const int64_t sample : samples) ++uses[sample];
  int64_t least = 1000, most = 0;
  for (int64_t sample = 900; sample < 1000; ++sample) {
    least = std::min(least, uses[sample]);
    most = std::max(most, uses[sample]);
  }
  EXPECT_LE(most - least, 1);
  EXPECT_GE(least, 70);
  SampleOrder plain(kKey, runs, {}, 10);
  const auto unweighted = samples_of(plain, 0, 1000);
  EXPECT_EQ(std::ranges::count_if(unweighted, [](int64_t sample) { return sample >= 900; }), 1000);
}

TEST(SampleOrder, ASetKeepsItsWeightOverItsShapes) {
  // Set 0: 30 of shape 0 and 10 of shape 1; set 1: 20 of shape 1.
  const std::vector<SampleRun> runs{{.set = 0, .shape = 0, .first = 0, .count = 30},
                                    {.set = 0, .shape = 1, .first = 30, .count = 10},
                                    {.set = 1, .shape = 1, .first = 40, .count = 20}};
  SampleOrder order(kKey, runs, {1, 1}, 5);
  const auto samples = samples_of(order, 0, 2000);
  const auto share = [&](int64_t begin, int64_t end) {
    return static_cast<double>(
               std::ranges::count_if(samples, [&](int64_t s) { return s >= begin && s < end; })) /
           10'000;
  };
  EXPECT_NEAR(share(0, 30), 0.375, 0.01);
  EXPECT_NEAR(share(30, 40), 0.125, 0.01);
  EXPECT_NEAR(share(40, 60), 0.5, 0.01);
  for (int64_t step = 0; step < 100; ++step)
    for (const auto batch = order.at(step); const int64_t sample : batch.samples)
      EXPECT_EQ(sample < 30 ? 0 : 1, batch.shape);
}

}  // namespace
}  // namespace surgery
