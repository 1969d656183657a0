#include "recipe/latent_set.h"

#include <algorithm>
#include <deque>
#include <map>

#include "base/errors.h"
#include "data/encode.h"
#include "data/shard_index.h"
#include "recipe/artifact.h"
#include "recipe/data_section.h"

namespace surgery {
namespace {

/// The shards that encoding with this configuration left, all of them. Error{io} before its end, Error{usage}
/// where it was done with another choice of clips.
std::vector<std::filesystem::path> own_shards(const Recipe& recipe) {
  const auto path = shard_index_path(recipe.run.latents());
  require_file(path, "encode");
  const ShardIndex index = read_shard_index(path);
  if (const std::string fault = index_fault(index, recipe.config); !fault.empty())
    fail_usage("{}: {}", path.string(), fault);
  std::vector<std::filesystem::path> shards;
  for (const ShardIndex::Shard& shard : index.shards) {
    shards.push_back(recipe.run.latents() / shard.name);
    require_file(shards.back(), "encode");
    require_fingerprint(shards.back(), LatentShard(shards.back()).header().fingerprint, shard.fingerprint,
                        "encode");
  }
  return shards;
}

/// The shards of a folder that somebody else made: those that its index names; without one, all, of which
/// none may be missing by their names' count.
std::vector<std::filesystem::path> given_shards(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> shards;
  if (const auto path = shard_index_path(folder); std::filesystem::exists(path)) {
    for (const ShardIndex::Shard& shard : read_shard_index(path).shards) {
      shards.push_back(folder / shard.name);
      if (!std::filesystem::exists(shards.back()))
        fail_io("{}: is not there, and {} names it (the set is not whole): bring it back",
                shards.back().string(), path.string());
    }
    return shards;
  }
  shards = list_shards(folder);
  require_whole_sets(shards);
  return shards;
}

ClipShape shape_of(const ShardHeader& header) {
  return {header.frames, header.height, header.width};
}

void check_shape(const LatentShard& shard, const Recipe& recipe) {
  const DataSection& d = recipe.config.data;
  const ClipShape shape = shape_of(shard.header());
  const auto expected = recipe.latent_shape(shape.frames, shape.height, shape.width);
  const bool whole = shard.latent_shape() == std::vector<int64_t>(expected.begin() + 1, expected.end());
  if (d.buckets.empty())
    VALIDATE(whole && shape == clip_shapes(d).front(),
             "{}: its clips are not {} frames of {}x{} (data.frames, data.height, data.width): encode with "
             "these settings",
             shard.path().string(), d.frames, d.height, d.width);
  VALIDATE(whole && std::ranges::count(clip_shapes(d), shape) > 0,
           "{}: its clips of {} are in no bucket (memory is planned for those of data.buckets = {}): name "
           "the shape there, or encode with these settings",
           shard.path().string(), to_string(shape), d.buckets);
}

}  // namespace

LatentSpace latent_space(Recipe& recipe) {
  return latent_space(recipe.vae_config(), recipe.vae_hash(), recipe.text_hash(), recipe.text_length(),
                      recipe.teacher_config().text_dim);
}

struct LatentSet::State {
  struct Entry {
    std::filesystem::path path;
    int64_t set = 0, begin = 0, count = 0;
    ClipShape shape;
  };
  std::vector<Entry> shards;
  std::vector<SampleRun> runs;
  std::vector<double> weights;
  int64_t size = 0;
  std::string fingerprint;
  // A file each; a large set has more shards than a process may open files.
  std::map<size_t, LatentShard> open;
  std::deque<size_t> opened;  // the oldest first

  void add(const std::filesystem::path& path, int64_t set, bool own, const LatentSpace& space,
           const Recipe& recipe) {
    const LatentShard shard(path);
    if (shard.size() == 0) return;
    shard.check_space(space);
    const double fps = recipe.config.data.fps;
    if (shard.header().fps != fps)
      fail_usage(
          "{}: its clips have {} frames a second, not data.fps = {} (motion would be of another speed): {}",
          path.string(), shard.header().fps, fps,
          own ? "run 'encode' again" : "set data.fps, or encode the set with it");
    check_shape(shard, recipe);
    fingerprint += shard.header().fingerprint + " ";
    shards.push_back({path, set, size, shard.size(), shape_of(shard.header())});
    size += shard.size();
  }

  std::map<ClipShape, int64_t> samples_by_shape() const {
    std::map<ClipShape, int64_t> counts;
    for (const Entry& entry : shards) counts[entry.shape] += entry.count;
    return counts;
  }

  void number_shapes() {
    const auto counts = samples_by_shape();
    for (const Entry& entry : shards)
      runs.push_back({.set = entry.set,
                      .shape = std::distance(counts.begin(), counts.find(entry.shape)),
                      .first = entry.begin,
                      .count = entry.count});
  }

  const LatentShard& shard(size_t index) {
    constexpr size_t kMostOpen = 128;
    const auto found = open.find(index);
    if (found != open.end()) return found->second;
    if (opened.size() == kMostOpen) {
      open.erase(opened.front());
      opened.pop_front();
    }
    opened.push_back(index);
    return open.emplace(index, LatentShard(shards[index].path)).first->second;
  }
};

LatentSet LatentSet::open(Recipe& recipe) {
  LatentSet set;
  set.state_ = std::make_shared<State>();
  State& s = *set.state_;
  const LatentSpace space = latent_space(recipe);
  const std::vector<ShardSet> sources = parse_shard_sets(recipe.config.data.shards);
  for (size_t i = 0; i < sources.size(); ++i) {
    const ShardSet& source = sources[i];
    const int64_t before = s.size;
    // One set alone is named by its shards, as ever.
    if (sources.size() > 1) s.fingerprint += fmt::format("set of weight {}: ", source.weight);
    for (const auto& path : source.own() ? own_shards(recipe) : given_shards(source.folder))
      s.add(path, static_cast<int64_t>(i), source.own(), space, recipe);
    VALIDATE(s.size > before,
             "{}: no usable clip (finetuning has nothing to learn from): see the rejects files",
             (source.own() ? recipe.run.latents() : source.folder).string());
    if (source.weight > 0 && sources.size() > 1) s.weights.push_back(source.weight);
  }
  s.number_shapes();
  return set;
}

int64_t LatentSet::size() const {
  return state_->size;
}
const std::string& LatentSet::fingerprint() const {
  return state_->fingerprint;
}
const std::vector<SampleRun>& LatentSet::runs() const {
  return state_->runs;
}
const std::vector<double>& LatentSet::weights() const {
  return state_->weights;
}

std::string LatentSet::text() const {
  const auto counts = state_->samples_by_shape();
  std::string shapes;
  for (const auto& [shape, count] : counts)
    shapes += fmt::format("{}{} of {}", shapes.empty() ? ": " : ", ", count, to_string(shape));
  return fmt::format("{} samples{}", size(), counts.size() > 1 ? shapes : "");
}

LatentSample LatentSet::sample(int64_t index) const {
  const auto& shards = state_->shards;
  const auto entry = std::ranges::upper_bound(shards, index, {}, &State::Entry::begin) - 1;
  return state_->shard(static_cast<size_t>(entry - shards.begin())).sample(index - entry->begin);
}

}  // namespace surgery
