#include "data/web_dataset.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/errors.h"
#include "base/utf8.h"
#include "data/latent_statistics.h"
#include "data/video_suffixes.h"
#include "storage/mapped_file.h"
#include "storage/tar_archive.h"
#include "storage/tensor_store.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::byte>;

constexpr size_t kPromptLimit = 1 << 16;  // bytes; the longest published are some thousand

/// A sample's parts, and the names that they may have behind the key.
enum class Part : size_t { latent, embed, prompt };
constexpr size_t kParts = 3;
constexpr std::array<std::array<std::string_view, 2>, kParts> kNames{
    {{"latent.pt", "latent.pth"}, {"embed.pt", "embed.pth"}, {"prompt.txt", "prompt.txt"}}};

struct Members {
  std::string key;
  std::array<std::optional<Bytes>, kParts> parts;
  std::string twice;  ///< a part that is there twice
  bool any = false;   ///< has a part
};

std::optional<Part> part_named(std::string_view extension) {
  for (size_t part = 0; part < kParts; ++part)
    if (std::ranges::find(kNames[part], extension) != kNames[part].end()) return static_cast<Part>(part);
  return std::nullopt;
}

/// The tensor of one member, named in messages by what it holds.
at::Tensor member_tensor(const std::shared_ptr<const void>& owner, Bytes bytes, const char* what) {
  at::Tensor tensor = view_torch_tensor(owner, bytes, what);
  const at::ScalarType type = tensor.scalar_type();
  VALIDATE(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf,
           "{}: its numbers are {}: expected bf16, fp16 or fp32", what, c10::toString(type));
  return tensor;
}

void check_finite(const at::Tensor& tensor, const char* what) {
  VALIDATE(at::isfinite(tensor).all().item<bool>(), "{}: holds numbers that are not finite", what);
}

/// Rows up to the last that is not zero: what is behind is padding.
at::Tensor real_rows(const at::Tensor& rows) {
  const at::Tensor real = rows.ne(0).any(1).nonzero();
  VALIDATE(real.numel() > 0, "embed: all its rows are zero (no text)");
  return rows.slice(0, 0, real.max().item<int64_t>() + 1);
}

}  // namespace

struct WebShard::State {
  fs::path path;
  std::shared_ptr<const MappedFile> file;
  std::vector<Members> samples;
  std::string fault;

  void read_members() {
    bool videos = false;
    std::vector<Members> groups;
    TarRead tar = read_tar(file->bytes(), path.string());
    fault = std::move(tar.fault);
    for (const TarEntry& entry : tar.entries) {
      const size_t base = entry.name.rfind('/') + 1;  // 0 where there is no folder
      const size_t dot = std::min(entry.name.find('.', base), entry.name.size());
      const std::string key = entry.name.substr(0, dot);
      const std::string_view extension =
          std::string_view(entry.name).substr(std::min(dot + 1, entry.name.size()));
      videos = videos || is_video_name(entry.name);
      if (groups.empty() || groups.back().key != key)
        groups.push_back({.key = key, .parts = {}, .twice = {}});
      const std::optional<Part> part = part_named(extension);
      if (!part) continue;
      Members& group = groups.back();
      std::optional<Bytes>& place = group.parts[static_cast<size_t>(*part)];
      if (place) group.twice = kNames[static_cast<size_t>(*part)][0];
      place = entry.bytes;
      group.any = true;
    }
    std::ranges::copy_if(groups, std::back_inserter(samples), &Members::any);
    const bool latents = std::ranges::any_of(
        samples, [](const Members& m) { return m.parts[static_cast<size_t>(Part::latent)].has_value(); });
    VALIDATE(latents || !videos,
             "{}: holds videos, not latents (a set is of one or the other, which the first that holds either "
             "decides): "
             "keep the two in folders of their own",
             path.string());
    VALIDATE(latents || !fault.empty(),
             "{}: holds no sample (members KEY.latent.pt, KEY.embed.pt, KEY.prompt.txt): check its source",
             path.string());
  }

  static Bytes part(const Members& members, Part part) {
    const auto index = static_cast<size_t>(part);
    VALIDATE(members.parts[index].has_value(), "has no {}", kNames[index][0]);
    return *members.parts[index];
  }
};

WebShard::WebShard(const fs::path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->file = MappedFile::open(path);
  state_->read_members();
}
WebShard::~WebShard() = default;
WebShard::WebShard(WebShard&&) noexcept = default;

int64_t WebShard::size() const {
  return std::ssize(state_->samples);
}
const std::string& WebShard::fault() const {
  return state_->fault;
}
const std::string& WebShard::key(int64_t index) const {
  return state_->samples.at(static_cast<size_t>(index)).key;
}
std::string WebShard::id(int64_t index) const {
  return state_->path.filename().string() + "/" + key(index);
}

LatentSample WebShard::sample(int64_t index, const std::vector<int64_t>& latent_shape,
                              const LatentSpace& space) const {
  const Members& members = state_->samples.at(static_cast<size_t>(index));
  VALIDATE(members.twice.empty(), "has {} twice (readers would disagree)", members.twice);
  const Bytes prompt = State::part(members, Part::prompt);
  LatentSample sample;
  sample.id = id(index);
  sample.latents = member_tensor(state_->file, State::part(members, Part::latent), "latent");
  VALIDATE(sample.latents.sizes() == at::IntArrayRef(latent_shape),
           "latent: has shape {}, this run's clips {} (data.frames, data.height, data.width)",
           fmt::join(sample.latents.sizes(), "x"), fmt::join(latent_shape, "x"));
  check_finite(sample.latents, "latent");
  const at::Tensor rows = member_tensor(state_->file, State::part(members, Part::embed), "embed");
  VALIDATE(rows.dim() == 2 && rows.size(0) >= 1 && rows.size(0) <= space.text_length &&
               rows.size(1) == space.text_dim,
           "embed: has shape {}, the model's text {}x{}", fmt::join(rows.sizes(), "x"), space.text_length,
           space.text_dim);
  check_finite(rows, "embed");
  sample.text = real_rows(rows);
  sample.prompt.assign(reinterpret_cast<const char*>(prompt.data()), std::min(prompt.size(), kPromptLimit));
  VALIDATE(prompt.size() <= kPromptLimit, "prompt: is longer than {} bytes", kPromptLimit);
  VALIDATE(find_utf8_error(sample.prompt) == std::string::npos, "prompt: is not UTF-8");
  sample.source_fps = kWebDatasetFps;
  return sample;
}

bool is_web_dataset(const fs::path& place) {
  std::error_code code;
  return place.extension() == ".tar" || fs::is_directory(place, code);
}

RejectedRecord bad_shard(const fs::path& tar, const std::string& reason) {
  return {.where = tar.filename().string(), .reason = reason, .kind = "bad shard"};
}

std::vector<fs::path> list_web_shards(const fs::path& place) {
  std::error_code code;
  if (!fs::is_directory(place, code)) {
    if (!fs::exists(place, code)) fail_io("{}: no such file: check data.videos", place.string());
    return {place};
  }
  std::vector<fs::path> shards;
  for (const auto& entry : fs::directory_iterator(place))
    if (entry.path().extension() == ".tar" && !entry.path().filename().string().starts_with('.'))
      shards.push_back(entry.path());
  if (shards.empty())
    fail_io(
        "{}: holds no .tar (a folder of data.videos holds tar shards of latents): name one that does, or an "
        "annotation listing",
        place.string());
  std::ranges::sort(shards);
  return shards;
}

std::vector<WebPlan> plan_web_shards(const fs::path& place, int64_t count) {
  std::vector<WebPlan> plans;
  int64_t left = count;
  for (const fs::path& tar : list_web_shards(place)) {
    plans.push_back({.tar = tar, .samples = 0, .latent_shape = {}});
    if (count == 0) continue;
    const int64_t size = WebShard(tar).size();
    if (size > left) plans.back().samples = left;
    left -= std::min(size, left);
    if (left == 0) break;
  }
  return plans;
}

EncodeResult read_web_shard(const WebPlan& web, const LatentSpace& space,
                            const std::function<void(LatentSample)>& take,
                            const std::function<bool()>& stop) {
  const WebShard tar(web.tar);
  const int64_t samples = web.samples > 0 ? std::min(web.samples, tar.size()) : tar.size();
  LatentStatistics statistics;
  EncodeResult result;
  for (int64_t i = 0; i < samples; ++i) {
    if (stop && stop()) {
      result.status = EncodeStatus::stopped;
      return result;
    }
    try {
      LatentSample sample = tar.sample(i, web.latent_shape, space);
      statistics.add(sample.latents);
      take(std::move(sample));
      ++result.samples;
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      result.rejected.push_back({.where = tar.id(i), .reason = error.what(), .kind = "bad sample"});
    }
  }
  if (web.samples == 0 && !tar.fault().empty()) result.rejected.push_back(bad_shard(web.tar, tar.fault()));
  const double evidence = statistics.raw_evidence(space);
  VALIDATE(
      evidence < kRawEvidence,
      "{}: its latents are not normalised (they have the VAE's own means and deviations, {:.2f} nats a "
      "number; training on them spoils the model silently): store (latents - latents_mean) / latents_std",
      web.tar.string(), evidence);
  return result;
}

EncodeResult convert_web_shard(const WebPlan& web, const ShardPlan& plan, const std::function<bool()>& stop) {
  LatentShardWriter writer(plan.path, plan.header);
  const auto take = [&](LatentSample sample) {
    sample.source_height = plan.header.height;
    sample.source_width = plan.header.width;
    sample.crop = {0, plan.header.width, 0, plan.header.height};
    writer.add(sample);
  };
  EncodeResult result = read_web_shard(web, plan.header.space, take, stop);
  if (result.status == EncodeStatus::stopped) return result;
  write_rejects(plan.path, result.rejected);  // first: a committed shard is done
  writer.commit();
  return result;
}

}  // namespace surgery
