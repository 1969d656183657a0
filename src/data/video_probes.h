#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "data/video.h"

namespace surgery {

/// What video files said when they were probed, by path, size and time of last change. Kept in a file, so
/// that a set is probed once; of the codec and the like nothing is kept. Not for more than one thread.
class VideoProbes {
 public:
  /// What probe_video would say of the file as it lies there now. None where it is not known, or where the
  /// file has changed since, or is not there.
  std::optional<VideoInfo> find(const std::filesystem::path& file) const;
  void add(const std::filesystem::path& file, const VideoInfo& info);

  /// Adds lines as take_new_lines gives them; what is no such line, or has no end, is passed over.
  void read_lines(std::string_view lines);
  /// Of what was added since the last call, a line each.
  std::string take_new_lines();

  /// Adds what the file keeps; nothing where there is none.
  void read(const std::filesystem::path& kept);
  /// Keeps all of it there, whole or not at all. Error{io}.
  void write(const std::filesystem::path& kept) const;
  bool empty() const { return lines_.empty(); }

 private:
  std::map<std::string, std::string, std::less<>> lines_;  ///< by path
  std::string new_lines_;
};

}  // namespace surgery
