#include "wan/weights_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

uint64_t bytes_of(const SavedTensor& saved) {
  return static_cast<uint64_t>(saved.tensor.numel()) * c10::elementSize(saved.dtype);
}

/// Number of tensors in each shard.
std::vector<size_t> plan_shards(const std::vector<SavedTensor>& tensors, uint64_t shard_bytes) {
  std::vector<size_t> counts;
  uint64_t filled = 0;
  for (const SavedTensor& saved : tensors) {
    const uint64_t bytes = bytes_of(saved);
    if (counts.empty() || filled + bytes > shard_bytes) {
      counts.push_back(0);
      filled = 0;
    }
    ++counts.back();
    filled += bytes;
  }
  return counts;
}

}  // namespace

void write_weights(const std::filesystem::path& folder, const std::string& stem,
                   const std::vector<SavedTensor>& tensors, uint64_t shard_bytes,
                   std::map<std::string, std::string> metadata) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail_io("{}: cannot be made: {}", folder.string(), error.message());
  metadata["format"] = "pt";
  const std::vector<size_t> shards = plan_shards(tensors, shard_bytes);
  nlohmann::ordered_json where = nlohmann::ordered_json::object();
  uint64_t total = 0;
  auto next = tensors.begin();
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string name =
        shards.size() == 1 ? stem + ".safetensors"
                           : fmt::format("{}-{:05}-of-{:05}.safetensors", stem, shard + 1, shards.size());
    const auto end = next + static_cast<std::ptrdiff_t>(shards[shard]);
    save_lazy_tensors(folder / name, {next, end}, metadata);
    for (; next != end; ++next) {
      where[next->name] = name;
      total += bytes_of(*next);
    }
  }
  if (shards.size() == 1) return;
  const nlohmann::ordered_json index{{"metadata", {{"total_size", total}}}, {"weight_map", where}};
  write_file(folder / (stem + ".safetensors.index.json"), index.dump(2) + "\n");
}

}  // namespace surgery
