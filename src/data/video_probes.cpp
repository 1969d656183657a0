#include "data/video_probes.h"

#include <cmath>

#include "base/text.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr std::string_view kFirstLine =
    "surgery-probes-1\n";      // counts on when probe_video says something else
constexpr size_t kFields = 9;  // behind the path

/// A file as it lies there now.
struct FileState {
  std::string path, state;  // "size TAB time of last change"
  bool operator==(const FileState&) const = default;
};

/// None where it is not there, or where its name would break a line.
std::optional<FileState> state_of(const std::filesystem::path& file) {
  std::error_code code;
  const auto path = std::filesystem::absolute(file, code);
  if (code) return {};
  const auto bytes = std::filesystem::file_size(path, code);
  if (code) return {};
  const auto changed = std::filesystem::last_write_time(path, code);
  if (code || path.string().find_first_of("\t\r\n") != std::string::npos) return {};
  return FileState{path.string(), fmt::format("{}\t{}", bytes, changed.time_since_epoch().count())};
}

/// The numbers behind the file's state; none where they are no probe's.
std::optional<VideoInfo> parse_info(const std::vector<std::string>& fields) {
  const auto whole = [&](size_t i) { return parse_number<int64_t>(fields[i]).value_or(-1); };
  const auto real = [&](size_t i) { return parse_number<double>(fields[i]).value_or(-1); };
  const auto rotation = parse_number<int>(fields[7]);
  VideoInfo info{.width = whole(2),
                 .height = whole(3),
                 .fps = real(4),
                 .duration_seconds = real(5),
                 .frames = whole(6),
                 .rotation = rotation.value_or(0),
                 .pixel_aspect = real(8),
                 .container = {},
                 .codec = {},
                 .pixel_format = {},
                 .comment = {}};
  const bool sound = info.width > 0 && info.height > 0 && info.fps >= 0 && std::isfinite(info.fps) &&
                     info.duration_seconds >= 0 && std::isfinite(info.duration_seconds) && info.frames >= 0 &&
                     rotation && info.pixel_aspect > 0 && std::isfinite(info.pixel_aspect);
  return sound ? std::optional(info) : std::nullopt;
}

}  // namespace

std::optional<VideoInfo> VideoProbes::find(const std::filesystem::path& file) const {
  if (known_.empty()) return {};
  const auto now = state_of(file);
  const auto found = now ? known_.find(now->path) : known_.end();
  if (found == known_.end() || !found->second.starts_with(now->state + "\t")) return {};
  return parse_info(split(found->second, '\t'));
}

VideoInfo VideoProbes::probe(const std::filesystem::path& file) {
  if (const auto known = find(file)) return *known;
  const auto before = state_of(file);
  VideoInfo info = probe_video(file);
  if (!before || state_of(file) != before) return info;
  const std::string line = fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n", before->path, before->state,
                                       info.width, info.height, info.fps, info.duration_seconds, info.frames,
                                       info.rotation, info.pixel_aspect);
  if (read_lines(line)) new_lines_ += line;
  return info;
}

bool VideoProbes::read_lines(std::string_view lines) {
  bool any = false;
  for (size_t end; (end = lines.find('\n')) != std::string_view::npos; lines.remove_prefix(end + 1)) {
    const std::string_view line = lines.substr(0, end);
    const size_t tab = line.find('\t');
    if (tab == std::string_view::npos) continue;
    std::string rest(line.substr(tab + 1));
    const std::vector<std::string> fields = split(rest, '\t');
    if (fields.size() != kFields || !parse_info(fields)) continue;
    known_[std::string(line.substr(0, tab))] = std::move(rest);
    any = true;
  }
  return any;
}

std::string VideoProbes::take_new_lines() {
  return std::exchange(new_lines_, {});
}

void VideoProbes::read(const std::filesystem::path& kept) {
  std::error_code code;
  if (!std::filesystem::exists(kept, code)) return;
  const std::string text = read_file(kept, SIZE_MAX);
  if (text.starts_with(kFirstLine)) read_lines(std::string_view(text).substr(kFirstLine.size()));
}

void VideoProbes::write(const std::filesystem::path& kept) const {
  AtomicFile file(kept);
  file.write(kFirstLine);
  for (const auto& [path, rest] : known_) file.write(path + "\t" + rest + "\n");
  file.commit();
}

}  // namespace surgery
