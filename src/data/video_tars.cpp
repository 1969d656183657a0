#include "data/video_tars.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/errors.h"
#include "base/text.h"
#include "data/video_suffixes.h"
#include "data/web_dataset.h"
#include "storage/atomic_file.h"
#include "storage/mapped_file.h"
#include "storage/strict_json.h"
#include "storage/tar_archive.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kCaptionLimit = 1 << 16;  // bytes

/// A member's name in its two parts: the key up to the base name's first dot, and what follows the dot.
struct MemberName {
  std::string key, extension;
  explicit MemberName(const std::string& name) {
    const size_t base = name.rfind('/') + 1;  // 0 where there is no folder
    const size_t dot = std::min(name.find('.', base), name.size());
    key = name.substr(0, dot);
    extension = name.substr(std::min(dot + 1, name.size()));
  }
  bool is_video() const { return is_video_name("." + extension); }  // not KEY.side.mp4
  bool is_latent() const { return extension == "latent.pt" || extension == "latent.pth"; }
};

std::string text_of(const TarEntry& entry) {
  return {reinterpret_cast<const char*>(entry.bytes.data()), std::min(entry.bytes.size(), kCaptionLimit)};
}

/// Empty where the member holds no caption.
std::string caption_of(const TarEntry& entry, const std::string& extension, const std::string& where) {
  const auto bare = [](const std::string& text) { return std::string(trimmed(text, " \t\r\n")); };
  if (extension == "txt" || extension == "prompt.txt") return bare(text_of(entry));
  if (extension != "json" || entry.bytes.size() > kCaptionLimit) return {};
  try {
    const nlohmann::json json = parse_strict_json(text_of(entry), where);
    for (const char* name : {"cap", "caption", "prompt", "text"}) {
      if (!json.is_object() || !json.contains(name)) continue;
      const nlohmann::json& value = json[name];
      const nlohmann::json& first = value.is_array() && !value.empty() ? value.front() : value;
      if (first.is_string()) return bare(first.get<std::string>());
    }
  } catch (const Error& error) {  // of one sample alone: it has no caption
    if (error.code() != ExitCode::data) throw;
  }
  return {};
}

/// The videos of one shard in its order, each with its caption.
struct VideoMember {
  std::string key, name, caption;
  std::span<const std::byte> bytes;
};

std::vector<VideoMember> videos_of(const std::vector<TarEntry>& entries) {
  std::vector<VideoMember> videos;
  std::string key, caption;
  const auto finish = [&] {  // neighbours of one key are one sample, whatever their order
    for (auto video = videos.rbegin(); video != videos.rend() && video->key == key; ++video)
      video->caption = caption;
    caption.clear();
  };
  for (const TarEntry& entry : entries) {
    const MemberName member(entry.name);
    if (member.key != key) finish();
    key = member.key;
    if (member.is_video()) videos.push_back({key, entry.name, {}, entry.bytes});
    const bool better = caption.empty() || member.extension != "json";  // a text of its own is preferred
    if (std::string found = caption_of(entry, member.extension, entry.name); better && !found.empty())
      caption = std::move(found);
  }
  finish();
  return videos;
}

/// What an earlier call unpacked of this very tar stays.
void unpack(const VideoMember& video, const fs::path& tar, const fs::path& folder) {
  const fs::path path = folder / video.name;
  std::error_code code;
  const bool whole = fs::file_size(path, code) == video.bytes.size() && !code;
  const auto of_tar = fs::last_write_time(tar);
  if (whole && fs::last_write_time(path) == of_tar) return;
  fs::create_directories(path.parent_path(), code);
  if (code) fail_io("{}: cannot be made: {}", path.parent_path().string(), code.message());
  write_file(path, {reinterpret_cast<const char*>(video.bytes.data()), video.bytes.size()});
  fs::last_write_time(path, of_tar);
}

}  // namespace

bool holds_videos(const fs::path& place) {
  if (!is_web_dataset(place)) return false;
  try {
    for (const fs::path& tar : list_web_shards(place)) {
      const auto file = MappedFile::open(tar);
      bool videos = false;
      for (const TarEntry& entry : read_tar(file->bytes(), tar.string()).entries) {
        const MemberName member(entry.name);
        if (member.is_latent()) return false;
        videos = videos || member.is_video();
      }
      if (videos) return true;
    }
    return false;
  } catch (const Error&) {
    return false;  // whoever reads it for latents tells what is wrong
  }
}

bool holds_latents(const fs::path& place) {
  return is_web_dataset(place) && !holds_videos(place);
}

fs::path unpack_video_tars(const fs::path& place, const fs::path& folder,
                           const std::function<bool(int64_t)>& mine, bool annotate,
                           std::vector<RejectedRecord>& rejected) {
  const std::vector<fs::path> tars = list_web_shards(place);
  Json annotation = Json::array();
  for (size_t i = 0; i < tars.size(); ++i) {
    if (!annotate && !mine(static_cast<int64_t>(i))) continue;
    const fs::path shard = tars[i].stem();
    const auto file = MappedFile::open(tars[i]);
    const TarRead tar = read_tar(file->bytes(), tars[i].string());
    if (annotate && !tar.fault.empty()) rejected.push_back(bad_shard(tars[i], tar.fault));
    for (const VideoMember& video : videos_of(tar.entries)) {
      if (mine(static_cast<int64_t>(i))) unpack(video, tars[i], folder / shard);
      if (!annotate) continue;
      Json record{{"path", (shard / video.name).string()}};
      if (!video.caption.empty()) record["cap"] = Json::array({video.caption});
      annotation.push_back(std::move(record));
    }
  }
  if (annotate) {
    VALIDATE(!annotation.empty(), "{}: its tar shards hold no video{}: check data.videos", place.string(),
             rejected.empty() ? "" : fmt::format(" ({})", rejected.front().reason));
    write_file(folder / "tars.json", annotation.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
    write_file(folder / "data.txt", ",tars.json\n");
  }
  return folder / "data.txt";
}

}  // namespace surgery
