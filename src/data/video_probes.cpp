#include "data/video_probes.h"

#include <cmath>

#include "base/text.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr size_t kFields = 10;

/// "path TAB size TAB time": of a file that has not changed since. None where it is not there, or where its
/// name would break a line.
std::optional<std::string> state_of(const std::filesystem::path& file) {
  std::error_code code;
  const auto path = std::filesystem::absolute(file, code);
  if (code) return {};
  const auto bytes = std::filesystem::file_size(path, code);
  if (code) return {};
  const auto changed = std::filesystem::last_write_time(path, code);
  if (code || path.string().find_first_of("\t\r\n") != std::string::npos) return {};
  return fmt::format("{}\t{}\t{}", path.string(), bytes, changed.time_since_epoch().count());
}

/// The numbers behind the file's state; none where they are no probe's.
std::optional<VideoInfo> parse_info(const std::vector<std::string>& fields) {
  const auto whole = [&](size_t i) { return parse_number<int64_t>(fields[i]).value_or(-1); };
  const auto real = [&](size_t i) { return parse_number<double>(fields[i]).value_or(-1); };
  const auto rotation = parse_number<int>(fields[8]);
  VideoInfo info{.width = whole(3),
                 .height = whole(4),
                 .fps = real(5),
                 .duration_seconds = real(6),
                 .frames = whole(7),
                 .rotation = rotation.value_or(0),
                 .pixel_aspect = real(9),
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
  if (lines_.empty()) return {};
  const auto state = state_of(file);
  if (!state) return {};
  const auto found = lines_.find(std::string_view(*state).substr(0, state->find('\t')));
  if (found == lines_.end() || !found->second.starts_with(*state + "\t")) return {};
  return parse_info(split(found->second, '\t'));
}

void VideoProbes::add(const std::filesystem::path& file, const VideoInfo& info) {
  const auto state = state_of(file);
  if (!state) return;
  const std::string line =
      fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n", *state, info.width, info.height, info.fps,
                  info.duration_seconds, info.frames, info.rotation, info.pixel_aspect);
  read_lines(line);
  new_lines_ += line;
}

void VideoProbes::read_lines(std::string_view lines) {
  for (size_t end; (end = lines.find('\n')) != std::string_view::npos; lines.remove_prefix(end + 1)) {
    const std::string line(lines.substr(0, end));
    const std::vector<std::string> fields = split(line, '\t');
    if (fields.size() == kFields && parse_info(fields)) lines_[fields[0]] = line;
  }
}

std::string VideoProbes::take_new_lines() {
  return std::exchange(new_lines_, {});
}

void VideoProbes::read(const std::filesystem::path& kept) {
  std::error_code code;
  if (std::filesystem::exists(kept, code)) read_lines(read_file(kept));
}

void VideoProbes::write(const std::filesystem::path& kept) const {
  AtomicFile file(kept);
  for (const auto& [path, line] : lines_) file.write(line + "\n");
  file.commit();
}

}  // namespace surgery
