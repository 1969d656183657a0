#include "data/inspect.h"

#include <algorithm>
#include <fstream>
#include <span>
#include <sstream>

#include "base/errors.h"
#include "data/inspect_model.h"
#include "data/latent_shard.h"
#include "data/manifest.h"
#include "data/prompts.h"
#include "data/video.h"
#include "data/video_suffixes.h"
#include "data/web_dataset.h"
#include "storage/atomic_file.h"
#include "storage/hdf5_file.h"
#include "storage/safetensors.h"
#include "storage/strict_json.h"
#include "storage/torch_file.h"

namespace surgery {

namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kShown = 5;  // examples of what there may be thousands of

std::string type_name(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return "F64";
    case at::kFloat:
      return "F32";
    case at::kHalf:
      return "F16";
    case at::kBFloat16:
      return "BF16";
    case at::kLong:
      return "I64";
    case at::kInt:
      return "I32";
    case at::kByte:
      return "U8";
    default:
      return c10::toString(type);
  }
}

Json inspect_safetensors(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  Json tensors = Json::array();
  int64_t numbers = 0;
  for (const auto& [name, entry] : file->entries()) {
    numbers += static_cast<int64_t>(entry.end - entry.begin) / dtype_bytes(entry.dtype);
    tensors.push_back({{"name", name}, {"dtype", dtype_name(entry.dtype)}, {"shape", entry.shape}});
  }
  Json metadata = Json::object();
  for (const auto& [key, value] : file->metadata()) metadata[key] = value;
  return {{"kind", "safetensors"}, {"numbers", numbers}, {"metadata", metadata}, {"tensors", tensors}};
}

Json inspect_torch(const std::filesystem::path& path) {
  const auto file = TorchFile::open(path);
  Json tensors = Json::array(), metadata = Json::object();
  int64_t numbers = 0;
  for (const auto& [name, entry] : file->entries()) {
    numbers += static_cast<int64_t>(shape_bytes(entry.shape, entry.dtype, name)) / dtype_bytes(entry.dtype);
    tensors.push_back({{"name", name}, {"dtype", dtype_name(entry.dtype)}, {"shape", entry.shape}});
  }
  for (const auto& [key, value] : file->metadata()) metadata[key] = value;
  return {{"kind", "torch"},
          {"numbers", numbers},
          {"key", file->key()},
          {"metadata", metadata},
          {"tensors", tensors}};
}

/// Latents that are normalised have mean near 0 and deviation near 1; raw ones do not.
Json shard_summary(const std::filesystem::path& path) {
  const LatentShard shard(path);
  const ShardHeader& header = shard.header();
  Json summary{{"samples", shard.size()}, {"frames", header.frames}, {"height", header.height},
               {"width", header.width},   {"fps", header.fps},       {"source", header.source}};
  Json prompts = Json::array();
  std::vector<at::Tensor> latents;
  for (int64_t i = 0; i < std::min<int64_t>(shard.size(), kShown); ++i) {
    const LatentSample sample = shard.sample(i);
    prompts.push_back({{"id", sample.id}, {"prompt", sample.prompt}, {"text_rows", sample.text.size(0)}});
    latents.push_back(sample.latents);
  }
  if (!latents.empty()) {
    const at::Tensor all = at::stack(latents);
    summary["latent_mean"] = all.mean().item<double>();
    summary["latent_deviation"] = all.std(false).item<double>();
  }
  summary["first_samples"] = prompts;
  return summary;
}

Json inspect_hdf5(const std::filesystem::path& path) {
  const auto [format, version] = hdf5_format(path);
  const Hdf5Reader file(path, format, static_cast<int>(version), Hdf5Reader::Verify::full);
  Json result{{"kind", format}, {"version", version}, {"checksums", "verified"}};
  Json attributes = Json::object();
  for (const auto& [name, value] : file.attributes()) attributes[name] = value;
  result["attributes"] = attributes;
  if (format == "surgery-latents") result["shard"] = shard_summary(path);
  Json datasets = Json::array();
  for (const std::string& name : file.datasets()) {
    const std::vector<int64_t> shape = file.shape(name);
    const at::Tensor some = shape.empty() || shape[0] == 0 ? file.dataset(name) : file.rows(name, 0, 1);
    datasets.push_back({{"name", name}, {"dtype", type_name(some.scalar_type())}, {"shape", shape}});
  }
  result["datasets"] = datasets;
  return result;
}

Json inspect_video(const std::filesystem::path& path) {
  const VideoInfo info = probe_video(path);
  return {{"kind", "video"},
          {"width", info.width},
          {"height", info.height},
          {"fps", info.fps},
          {"frames", info.frames},
          {"duration_seconds", info.duration_seconds},
          {"rotation", info.rotation},
          {"pixel_aspect", info.pixel_aspect},
          {"container", info.container},
          {"codec", info.codec},
          {"pixel_format", info.pixel_format}};
}

/// Of a set of any size: nothing but the first few of its records is kept.
Json manifest_summary(const std::string& kind, const std::filesystem::path& path) {
  Json clips = Json::array(), bad = Json::array();
  int64_t usable = 0, rejected = 0;
  RejectedRecord first;
  stream_manifest(
      path,
      [&](const ManifestRecord& record) {
        ++usable;
        if (clips.size() < kShown) clips.push_back({{"path", record.id}, {"caption", record.captions[0]}});
      },
      [&](const RejectedRecord& record) {
        if (rejected++ == 0) first = record;
        if (bad.size() < kShown) bad.push_back({{"where", record.where}, {"reason", record.reason}});
      });
  if (usable == 0) fail_without_clips(path, rejected, first);
  Json result{{"kind", kind}, {"clips", usable}, {"bad_records", rejected}, {"first_clips", clips}};
  if (!bad.empty()) result["first_bad_records"] = bad;
  return result;
}

Json inspect_web_shard(const std::filesystem::path& path) {
  const WebShard shard(path);
  Json keys = Json::array();
  for (int64_t i = 0; i < std::min<int64_t>(shard.size(), kShown); ++i) keys.push_back(shard.key(i));
  Json result{{"kind", "webdataset"}, {"samples", shard.size()}, {"first_keys", keys}};
  if (!shard.fault().empty()) result["damaged"] = shard.fault();
  return result;
}

Json inspect_json(const std::filesystem::path& path, char first) {
  if (first == '[') return manifest_summary("annotation", path);
  Json result{{"kind", "json"}};
  result["content"] = Json::parse(read_json_file(path.string()).dump());
  return result;
}

Json inspect_prompts(const std::filesystem::path& path) {
  const auto prompts = read_prompts(path);
  int64_t extended = 0;
  Json first = Json::array();
  for (const Prompt& prompt : prompts) {
    extended += prompt.text != prompt.name;
    if (first.size() < kShown) first.push_back(prompt.name);
  }
  return {{"kind", "prompts"}, {"prompts", prompts.size()}, {"extended", extended}, {"first_prompts", first}};
}

/// A listing's lines all end in an annotation's name; a prompt's hardly do.
bool looks_like_listing(const std::string& content) {
  std::istringstream lines(content);
  bool any = false;
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (line.empty()) continue;
    const std::string suffix = std::filesystem::path(line).extension().string();
    if (line.find(',') == std::string::npos || (suffix != ".json" && suffix != ".pkl")) return false;
    any = true;
  }
  return any;
}

Json inspect_table(const std::filesystem::path& path) {
  std::istringstream lines(read_file(path));
  std::string header, line;
  std::getline(lines, header);
  int64_t rows = 0;
  while (std::getline(lines, line)) rows += !line.empty();
  Json columns = Json::array();
  std::istringstream names(header);
  for (std::string name; std::getline(names, name, ',');) columns.push_back(name);
  VALIDATE(!columns.empty(), "{}: has no header line: expected a table", path.string());
  return {{"kind", "table"}, {"columns", columns}, {"rows", rows}};
}

Json inspect_folder(const std::filesystem::path& path) {
  if (auto model = inspect_model(path)) return *model;
  std::vector<std::filesystem::path> entries;
  for (const auto& entry : std::filesystem::directory_iterator(path)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  Json files = Json::array();
  uintmax_t total = 0;
  for (const auto& entry : entries) {
    std::error_code code;
    if (std::filesystem::is_directory(entry, code)) {
      files.push_back({{"name", entry.filename().string() + "/"}, {"bytes", ""}});
      continue;
    }
    const uintmax_t bytes = std::filesystem::file_size(entry, code);
    total += code ? 0 : bytes;
    files.push_back({{"name", entry.filename().string()}, {"bytes", code ? 0 : bytes}});
  }
  return {{"kind", "folder"}, {"bytes", total}, {"files", files}};
}

std::string first_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_io("{}: cannot be read: check its permissions", path.string());
  std::string bytes(4096, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

Json inspect_content(const std::filesystem::path& path) {
  const std::string head = first_bytes(path);
  const std::string suffix = path.extension().string();
  VALIDATE(!head.empty(), "{}: the file is empty: nothing to inspect", path.string());
  if (head.rfind("\x89HDF\r\n\x1a\n", 0) == 0 || suffix == ".h5") return inspect_hdf5(path);
  if (is_torch_file(std::as_bytes(std::span(head)))) return inspect_torch(path);
  if (suffix == ".safetensors" || (head.size() > 9 && head[8] == '{' && head[7] == '\0'))
    return inspect_safetensors(path);
  if (is_video_name(path.filename().string())) return inspect_video(path);
  if (suffix == ".tar") return inspect_web_shard(path);
  const size_t start = head.find_first_not_of(" \t\r\n");
  if (suffix == ".json") return inspect_json(path, start == std::string::npos ? ' ' : head[start]);
  if (suffix == ".csv") return inspect_table(path);
  VALIDATE(suffix == ".txt" || suffix == ".tsv",
           "{}: no kind of file that is known here: expected safetensors, a file of torch.save, HDF5, a "
           "video, a tar shard, JSON, CSV or a prompt list",
           path.string());
  if (suffix == ".txt" && looks_like_listing(read_file(path))) return manifest_summary("listing", path);
  return inspect_prompts(path);
}

}  // namespace

nlohmann::ordered_json inspect_file(const std::filesystem::path& path) {
  std::error_code code;
  if (!std::filesystem::exists(path, code)) fail_io("{}: no such file: check the path", path.string());
  const bool folder = std::filesystem::is_directory(path, code);
  const Json content = folder ? inspect_folder(path) : inspect_content(path);
  Json result{{"kind", content["kind"]}, {"path", path.string()}};
  if (!folder) result["bytes"] = std::filesystem::file_size(path, code);
  result.update(content);
  return result;
}

}  // namespace surgery
