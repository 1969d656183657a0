#include "base/random.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace surgery {
namespace {

// SplitMix64's finaliser: spreads stream names over the key space.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr double kTwoPow32 = 4294967296.0;

}  // namespace

RandomKey RandomKey::with(uint64_t index) const {
  return {seed, mix(stream ^ mix(index + 1))};
}

RandomKey RandomKey::with(std::string_view word) const {
  uint64_t hash = 0xCBF29CE484222325ull;  // FNV-1a
  for (const char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return {seed, mix(stream ^ mix(hash))};
}

std::array<uint32_t, 4> philox(RandomKey key, uint64_t counter) {
  std::array<uint32_t, 4> x{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                            static_cast<uint32_t>(key.stream), static_cast<uint32_t>(key.stream >> 32)};
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * x[0], p1 = uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<uint32_t>(p1 >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

uint32_t RandomStream::next() {
  if (used_ == 4) {
    block_ = philox(key_, counter_++);
    used_ = 0;
  }
  return block_[static_cast<size_t>(used_++)];
}

double RandomStream::uniform() {
  const uint64_t high = next(), low = next();
  return static_cast<double>(((high << 32) | low) >> 11) * 0x1.0p-53;
}

double RandomStream::normal() {
  const double u = 1.0 - uniform(), v = uniform();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

int64_t RandomStream::below(int64_t bound) {
  EXPECT(bound > 0);
  return static_cast<int64_t>(uniform() * static_cast<double>(bound));
}

namespace {

/// Elements [begin, end) of a stream, each group of four made from one block of four words.
template <class Group>
at::Tensor random_elements(RandomKey key, int64_t begin, int64_t end, const Group& group) {
  EXPECT(begin % 4 == 0 && begin <= end);
  at::Tensor out = at::empty({end - begin}, at::kFloat);
  float* data = out.data_ptr<float>();
  at::parallel_for(0, (end - begin + 3) / 4, 4096, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const std::array<float, 4> values = group(philox(key, static_cast<uint64_t>(begin / 4 + i)));
      std::copy_n(values.begin(), std::min<int64_t>(4, end - begin - 4 * i), data + 4 * i);
    }
  });
  return out;
}

}  // namespace

at::Tensor random_normal(RandomKey key, int64_t begin, int64_t end) {
  return random_elements(key, begin, end, [](const std::array<uint32_t, 4>& w) {
    std::array<float, 4> values{};
    for (size_t pair = 0; pair < 4; pair += 2) {
      const double u = (w[pair] + 1.0) / kTwoPow32;
      const double angle = 2.0 * std::numbers::pi * w[pair + 1] / kTwoPow32;
      const double radius = std::sqrt(-2.0 * std::log(u));
      values[pair] = static_cast<float>(radius * std::cos(angle));
      values[pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
    return values;
  });
}

at::Tensor random_uniform(RandomKey key, int64_t begin, int64_t end) {
  return random_elements(key, begin, end, [](const std::array<uint32_t, 4>& w) {
    std::array<float, 4> values{};
    for (size_t j = 0; j < 4; ++j) values[j] = static_cast<float>(w[j] >> 8) * 0x1.0p-24f;
    return values;
  });
}

at::Tensor random_normal(RandomKey key, at::IntArrayRef shape) {
  return random_normal(key, 0, c10::multiply_integers(shape)).view(shape);
}

at::Tensor random_uniform(RandomKey key, at::IntArrayRef shape) {
  return random_uniform(key, 0, c10::multiply_integers(shape)).view(shape);
}

}  // namespace surgery
