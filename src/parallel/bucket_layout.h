#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// How data-parallel training spreads what it holds over the ranks (Rajbhandari et al. 2020).
enum class Sharding {
  none,       ///< every rank holds all
  optimizer,  ///< masters and moments in pieces (ZeRO-1)
  parameters  ///< parameters and gradients too, whole only while a group computes (ZeRO-3)
};
Sharding parse_sharding(const std::string& word);  ///< Error{usage}
const std::vector<std::string>& sharding_names();

/// Parameters that are used together (a block's), with their names.
using ParameterGroup = std::vector<std::pair<std::string, at::Tensor>>;

/// Where the parameters of training lie in flat memory: a bucket for the parameters of a group that have one
/// type. Each begins on a cache line of its own; a bucket ends in zeros up to a multiple of 64 elements times
/// the ranks, so that every rank has an equal piece of it.
struct BucketLayout {
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset = 0, count = 0;  ///< elements
  };
  struct Bucket {
    std::vector<Entry> entries;
    at::ScalarType type = at::kFloat;
    size_t group = 0;
    int64_t size = 0;  ///< elements, padding included
  };
  std::vector<Bucket> buckets;  ///< in the order of the groups
  size_t groups = 0;            ///< those without a parameter too

  /// Error{internal} for a name given twice, or a parameter that is neither fp32 nor bf16.
  BucketLayout(const std::vector<ParameterGroup>& of, int ranks);
  BucketLayout() = default;

  /// For a checkpoint: sizes, names, shapes and offsets (types and groups are the run's own matter).
  nlohmann::json to_json() const;
  static BucketLayout from_json(const nlohmann::json& json);  ///< Error{data}
};

/// The value of a parameter by its name, in any type and place.
using ReadParameter = std::function<at::Tensor(const std::string& name)>;

/// [bucket.size]: the values that `find` gives, in their places.
inline at::Tensor flatten(const BucketLayout::Bucket& bucket, const at::TensorOptions& options,
                          const ReadParameter& find) {
  const at::NoGradGuard no_gradient;
  at::Tensor flat = at::zeros({bucket.size}, options);
  for (const BucketLayout::Entry& entry : bucket.entries)
    flat.narrow(0, entry.offset, entry.count).copy_(find(entry.name).reshape({-1}));
  return flat;
}

/// A parameter's part of a bucket's memory, in its shape.
at::Tensor view_of(const at::Tensor& flat, const BucketLayout::Entry& entry);

}  // namespace surgery
