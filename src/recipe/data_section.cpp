#include "recipe/data_section.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/errors.h"
#include "base/text.h"
#include "parallel/bucket_layout.h"

namespace surgery {

std::vector<ClipShape> clip_shapes(const DataSection& data) {
  if (data.buckets.empty()) return {{data.frames, data.height, data.width}};
  std::vector<ClipShape> shapes;
  for (const std::string& part : split(without_spaces(data.buckets), ','))
    shapes.push_back(parse_clip_shape(part).value());  // the table has checked it
  return shapes;
}

ClipRules clip_rules(const DataSection& data) {
  return {.buckets = clip_shapes(data),
          .fps = data.fps,
          .may_enlarge = data.buckets.empty(),
          .least_height = data.least_height,
          .least_width = data.least_width,
          .least_seconds = data.least_seconds,
          .most_seconds = data.most_seconds,
          .least_aesthetic = data.least_aesthetic,
          .most_aspect = data.most_aspect};
}

std::string clip_choice(const DataSection& data) {
  const std::string filters = clip_rules(data).text();
  const std::string buckets = data.buckets.empty() ? "" : "buckets " + without_spaces(data.buckets);
  return buckets + (buckets.empty() || filters.empty() ? "" : "; ") + filters;
}

RandomKey subset_key(uint64_t seed) {
  return RandomKey{seed, 0}.with("subset");
}

std::string index_fault(const ShardIndex& index, const Config& config) {
  const DataSection& d = config.data;
  const auto told = [](const std::string& choice) { return choice.empty() ? "" : "; " + choice; };
  const std::string choice = clip_choice(d);
  if (index.source != d.videos || index.count != d.count || index.choice != choice)
    return fmt::format(
        "the shards hold clips of {} (data.count = {}{}), not of data.videos = {} (data.count = {}{}): run "
        "'encode' again",
        index.source, index.count, told(index.choice), d.videos, d.count, told(choice));
  if (!index.subset.rule.empty() && index.subset.seed != config.run.seed)
    return fmt::format(
        "its clips and captions were chosen by run.seed = {}, not {}: run 'encode' again, or name the folder "
        "in data.shards",
        index.subset.seed, config.run.seed);
  return "";
}

std::vector<ShardSet> parse_shard_sets(std::string_view text) {
  if (text.empty()) return {ShardSet{}};
  std::vector<ShardSet> sets;
  std::set<std::filesystem::path> seen;
  for (const std::string& spaced : split(text, ',')) {
    std::string part(trimmed(spaced));
    ShardSet set;
    const size_t equal = part.rfind('=');
    if (const auto weight = equal == std::string::npos
                                ? std::nullopt
                                : parse_number<double>(std::string_view(part).substr(equal + 1))) {
      if (!(*weight > 0) || !std::isfinite(*weight))
        fail_usage("'{}' has no weight above 0: FOLDER=WEIGHT", part);
      set.weight = *weight;
      part.resize(equal);
    }
    if (part.empty()) fail_usage("'{}' names no folder: FOLDER[=WEIGHT],..., or own", text);
    if (part != "own") set.folder = part;
    if (!seen.insert(set.folder).second)
      fail_usage("'{}' stands twice: give it the sum of its weights", part);
    sets.push_back(std::move(set));
  }
  const auto weighted = std::ranges::count_if(sets, [](const ShardSet& set) { return set.weight > 0; });
  if (weighted > 0 && weighted < std::ssize(sets))
    fail_usage("'{}' gives {} of {} sets a weight (a size is no share): give all of them one, or none", text,
               weighted, sets.size());
  return sets;
}

bool encodes_own(const DataSection& data) {
  const auto sets = parse_shard_sets(data.shards);
  return std::ranges::any_of(sets, &ShardSet::own);
}

std::string batch_fault(const Config& config, int64_t ranks) {
  const FinetuneSection& f = config.finetune;
  if (f.iterations == 0 || parse_sharding(config.data.sharding) != Sharding::parameters ||
      f.global_batch % (ranks * f.micro_batch) == 0)
    return {};
  return fmt::format(
      "data.sharding = parameters: finetune.global_batch = {} is not the same number of micro-batches of {} "
      "on "
      "each of {} ranks: give a multiple of {}, or data.sharding = optimizer",
      f.global_batch, f.micro_batch, ranks, ranks * f.micro_batch);
}

}  // namespace surgery
