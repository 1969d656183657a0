#include "data/shard_index.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/atomic_file.h"

namespace surgery {

int64_t ShardIndex::clips() const {
  int64_t sum = 0;
  for (const Shard& shard : shards) sum += shard.clips;
  return sum;
}

std::string subset_line(const std::string& id, const std::optional<FrameRange>& cut) {
  return fmt::format("{}\t{}\t{}\n", id, cut ? cut->begin : 0, cut ? cut->end : -1);
}

std::filesystem::path shard_index_path(const std::filesystem::path& folder) {
  return folder / "index.json";
}

ShardIndex read_shard_index(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  try {
    const auto json = nlohmann::json::parse(text);
    ShardIndex index{
        .source = json.at("source"), .count = json.at("count"), .choice = json.value("choice", "")};
    if (json.contains("subset")) {
      const auto& subset = json.at("subset");
      index.subset = {.rule = subset.at("rule"),
                      .seed = subset.at("seed"),
                      .records = subset.at("records"),
                      .usable = subset.at("usable"),
                      .taken = subset.at("taken"),
                      .hash = subset.at("xxh128")};
    }
    for (const auto& shard : json.at("shards"))
      index.shards.push_back({shard.at("name"), shard.at("fingerprint"), shard.at("clips")});
    return index;
  } catch (const nlohmann::json::exception& error) {
    fail_data("{}: not an index of latent shards ({}): run 'encode' again", path.string(), error.what());
  }
}

void write_shard_index(const std::filesystem::path& path, const ShardIndex& index) {
  nlohmann::ordered_json json{{"source", index.source}, {"count", index.count}, {"choice", index.choice}};
  if (const auto& subset = index.subset; !subset.rule.empty())
    json["subset"] = {{"rule", subset.rule},     {"seed", subset.seed},   {"records", subset.records},
                      {"usable", subset.usable}, {"taken", subset.taken}, {"xxh128", subset.hash}};
  json["shards"] = nlohmann::ordered_json::array();
  for (const ShardIndex::Shard& shard : index.shards)
    json["shards"].push_back(
        {{"name", shard.name}, {"fingerprint", shard.fingerprint}, {"clips", shard.clips}});
  const std::string text = json.dump(1) + "\n";
  if (!std::filesystem::exists(path) || read_file(path) != text) write_file(path, text);
}

}  // namespace surgery
