#include "parallel/bucket_layout.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr int64_t kAlignment = 64;  // elements

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

BucketLayout::Bucket bucket_of(const ParameterGroup& group, at::ScalarType type, size_t number, int ranks) {
  BucketLayout::Bucket bucket;
  bucket.type = type;
  bucket.group = number;
  for (const auto& [name, tensor] : group) {
    if (tensor.scalar_type() != type) continue;
    bucket.entries.push_back({name, tensor.sizes().vec(), bucket.size, tensor.numel()});
    bucket.size += round_up(tensor.numel(), kAlignment);
  }
  bucket.size = round_up(bucket.size, kAlignment * ranks);
  return bucket;
}

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape)
    VALIDATE(size >= 0 && !__builtin_mul_overflow(count, size, &count),
             "a checkpoint's layout has a shape of {} (damaged manifest): name another checkpoint",
             fmt::join(shape, "x"));
  return count;
}

}  // namespace

const std::vector<std::string>& sharding_names() {
  static const std::vector<std::string> names{"none", "optimizer", "parameters"};
  return names;
}

Sharding parse_sharding(const std::string& word) {
  const auto found = std::ranges::find(sharding_names(), word);
  if (found == sharding_names().end())
    fail_usage("sharding '{}' is unknown: choose one of {}", word, fmt::join(sharding_names(), ", "));
  return static_cast<Sharding>(found - sharding_names().begin());
}

BucketLayout::BucketLayout(const std::vector<ParameterGroup>& of, int ranks) : groups(of.size()) {
  std::set<std::string> names;
  for (size_t number = 0; number < groups; ++number) {
    for (const auto& [name, tensor] : of[number]) {
      EXPECT(names.insert(name).second);
      EXPECT(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
    }
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat})
      if (Bucket bucket = bucket_of(of[number], type, number, ranks); !bucket.entries.empty())
        buckets.push_back(std::move(bucket));
  }
}

nlohmann::json BucketLayout::to_json() const {
  nlohmann::json all = nlohmann::json::array();
  for (const Bucket& bucket : buckets) {
    nlohmann::json entries = nlohmann::json::array();
    for (const Entry& entry : bucket.entries)
      entries.push_back({{"name", entry.name}, {"shape", entry.shape}, {"offset", entry.offset}});
    all.push_back({{"size", bucket.size}, {"parameters", entries}});
  }
  return all;
}

BucketLayout BucketLayout::from_json(const nlohmann::json& json) {
  BucketLayout layout;
  try {
    for (const auto& one : json) {
      Bucket bucket;
      bucket.size = one.at("size").get<int64_t>();
      for (const auto& row : one.at("parameters")) {
        Entry entry{row.at("name").get<std::string>(), row.at("shape").get<std::vector<int64_t>>(),
                    row.at("offset").get<int64_t>()};
        entry.count = elements(entry.shape);
        VALIDATE(
            entry.offset >= 0 && entry.count <= bucket.size && entry.offset <= bucket.size - entry.count,
            "a checkpoint's layout has {} outside its bucket (damaged manifest): name another checkpoint",
            entry.name);
        bucket.entries.push_back(std::move(entry));
      }
      layout.buckets.push_back(std::move(bucket));
    }
  } catch (const nlohmann::json::exception& error) {
    fail_data("a checkpoint's layout cannot be read (damaged or foreign manifest): {}", error.what());
  }
  return layout;
}

at::Tensor view_of(const at::Tensor& flat, const BucketLayout::Entry& entry) {
  return flat.narrow(0, entry.offset, entry.count).view(entry.shape);
}

}  // namespace surgery
