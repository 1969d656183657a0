#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <set>
#include <vector>

namespace surgery {
namespace {

/// The published vectors of Random123 (kat_vectors, philox4x32 with 10 rounds): words 0 and 1 of its counter
/// are ours, 2 and 3 the stream, its key is the seed.
TEST(Philox, GivesThePublishedAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~uint64_t{0}, ~uint64_t{0}}, ~uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x299f31d0'a4093822, 0x03707344'13198a2e}, 0x85a308d3'243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, IsTheWordsOfItsBlocksInTurn) {
  const RandomKey key{7, 9};
  RandomStream stream(key);
  for (uint64_t counter = 0; counter < 3; ++counter)
    for (const uint32_t word : philox(key, counter)) EXPECT_EQ(stream.next(), word);
}

/// What a key's numbers are is part of what it names: every other value would be another run's.
TEST(RandomTensors, AreMadeOfTheWordsInAFixedWay) {
  constexpr double kTwoPow32 = 4294967296.0, kTwoPi = 2 * std::numbers::pi;
  const RandomKey key{11, 12};
  const at::Tensor normal = random_normal(key, {4}), uniform = random_uniform(key, {4});
  const std::array<uint32_t, 4> words = philox(key, 0);
  for (int64_t i = 0; i < 4; ++i) {
    const double first = words.at(static_cast<size_t>(i / 2 * 2)),
                 second = words.at(static_cast<size_t>(i / 2 * 2 + 1)), angle = kTwoPi * second / kTwoPow32,
                 radius = std::sqrt(-2 * std::log((first + 1) / kTwoPow32));
    EXPECT_FLOAT_EQ(normal[i].item<float>(),
                    static_cast<float>(radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle))));
    EXPECT_EQ(uniform[i].item<float>(),
              static_cast<float>(words.at(static_cast<size_t>(i)) / 256) / (1 << 24));  // 24 bits
  }
  RandomStream draws(key), bits(key);
  const auto expected = [&] {  // 53 bits
    const uint64_t high = bits.next(), low = bits.next();
    return static_cast<double>((high << 32 | low) / 2048) / static_cast<double>(uint64_t{1} << 53);
  };
  for (int repeat = 0; repeat < 3; ++repeat) {
    EXPECT_EQ(draws.uniform(), expected());
    const double u = expected(), v = expected();
    EXPECT_DOUBLE_EQ(draws.normal(), std::sqrt(-2 * std::log(1 - u)) * std::cos(kTwoPi * v));
    EXPECT_EQ(draws.below(1000), static_cast<int64_t>(std::floor(1000 * expected())));
  }
}

/// Mean and deviation of many numbers, each within five standard errors of what they should be.
void expect_moments(const at::Tensor& values, double mean, double variance, double fourth_moment) {
  const at::Tensor v = values.to(at::kDouble);
  const auto n = static_cast<double>(v.numel());
  EXPECT_NEAR(v.mean().item<double>(), mean, 5 * std::sqrt(variance / n));
  EXPECT_NEAR((v - mean).square().mean().item<double>(), variance,
              5 * std::sqrt((fourth_moment - variance * variance) / n));
}

constexpr int64_t kMany = 1 << 20;

TEST(RandomTensors, HaveTheMomentsOfTheirDistributions) {
  const at::Tensor normal = random_normal({1, 2}, {kMany}), uniform = random_uniform({1, 2}, {kMany});
  expect_moments(normal, 0, 1, 3);
  expect_moments(uniform, 0.5, 1.0 / 12, 1.0 / 80);
  EXPECT_GE(uniform.min().item<float>(), 0);
  EXPECT_LT(uniform.max().item<float>(), 1);
  EXPECT_TRUE(at::isfinite(normal).all().item<bool>());
  // A thousandth of a normal variable is beyond 3.2905.
  EXPECT_NEAR((normal.abs() > 3.2905).sum().item<double>(), 1e-3 * kMany, 5 * std::sqrt(1e-3 * kMany));
  // The two of a pair, and neighbours of two pairs, know nothing of each other.
  const at::Tensor groups = normal.view({-1, 4}).to(at::kDouble);
  for (int64_t j = 0; j < 3; ++j)
    EXPECT_NEAR((groups.select(1, j) * groups.select(1, j + 1)).mean().item<double>(), 0,
                5 / std::sqrt(kMany / 4.0));
}

TEST(RandomStream, HasTheMomentsOfItsDistributions) {
  constexpr int64_t kDraws = 200'000;
  RandomStream stream({3, 4});
  at::Tensor normal = at::empty({kDraws}, at::kDouble), uniform = at::empty({kDraws}, at::kDouble);
  for (int64_t i = 0; i < kDraws; ++i) {
    normal.data_ptr<double>()[i] = stream.normal();
    uniform.data_ptr<double>()[i] = stream.uniform();
  }
  expect_moments(normal, 0, 1, 3);
  expect_moments(uniform, 0.5, 1.0 / 12, 1.0 / 80);
  std::array<int64_t, 7> hits{};
  for (int64_t i = 0; i < kDraws; ++i) ++hits.at(static_cast<size_t>(stream.below(7)));
  for (const int64_t count : hits)
    EXPECT_NEAR(static_cast<double>(count), kDraws / 7.0, 5 * std::sqrt(kDraws / 7.0));
}

/// Element i depends on the key and i alone: not on the shape, nor on what is made beside it.
TEST(RandomTensors, APartIsThatOfTheWhole) {
  const RandomKey key{5, 6};
  const int64_t size = 40'003;  // several pieces of the parallel loop, and no multiple of four
  const at::Tensor normal = random_normal(key, 0, size), uniform = random_uniform(key, 0, size);
  const std::vector<std::pair<int64_t, int64_t>> parts{{0, 0},           {0, 1},         {4, 4},   {4, 11},
                                                       {16'380, 16'393}, {40'000, size}, {0, size}};
  for (const auto& [begin, end] : parts) {
    EXPECT_TRUE(at::equal(random_normal(key, begin, end), normal.slice(0, begin, end)))
        << begin << ", " << end;
    EXPECT_TRUE(at::equal(random_uniform(key, begin, end), uniform.slice(0, begin, end)))
        << begin << ", " << end;
  }
  EXPECT_TRUE(at::equal(random_normal(key, {3, 5, 7}), normal.slice(0, 0, 105).view({3, 5, 7})));
  EXPECT_TRUE(at::equal(random_uniform(key, {3, 5, 7}), uniform.slice(0, 0, 105).view({3, 5, 7})));
}

TEST(RandomKey, EveryKeyHasItsOwnNumbers) {
  constexpr uint64_t kHigh = uint64_t{1} << 32;
  const RandomKey key{1, 2};
  const std::vector<RandomKey> keys{key,
                                    {2, 2},
                                    {1, 3},
                                    {2, 1},
                                    {1, 2 + kHigh},
                                    {1 + kHigh, 2},
                                    RandomKey{1, 3}.with(0),
                                    key.with(0),
                                    key.with(1),
                                    key.with(""),
                                    key.with("noise"),
                                    key.with("sigma"),
                                    key.with(0).with(1),
                                    key.with(1).with(0),
                                    key.with(0).with("noise"),
                                    key.with("noise").with(0)};
  for (size_t i = 0; i < keys.size(); ++i) {
    const at::Tensor ours = random_normal(keys[i], {1000});
    EXPECT_TRUE(at::equal(ours, random_normal(keys[i], {1000}))) << "the same key gives the same numbers";
    for (size_t j = 0; j < i; ++j)
      EXPECT_LT((ours == random_normal(keys[j], {1000})).sum().item<int64_t>(), 3) << i << " and " << j;
  }
  std::set<std::array<uint32_t, 4>> blocks;
  for (uint64_t i = 0; i < 10'000; ++i) blocks.insert(philox(key.with(i), 0));
  EXPECT_EQ(blocks.size(), 10'000u);
}

}  // namespace
}  // namespace surgery
