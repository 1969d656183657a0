#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "data/video.h"

namespace surgery {

/// What video files said when they were probed, by path, size and time of last change. Kept in a file, so
/// that a set need not be probed again; of the codec and the like nothing is kept. For one thread.
class VideoProbes {
 public:
  /// As probe_video; a file that is known and has not changed is not opened. What is found is added, unless
  /// the file changed meanwhile.
  VideoInfo probe(const std::filesystem::path& file);
  /// What is known of the file as it lies there now.
  std::optional<VideoInfo> find(const std::filesystem::path& file) const;

  /// Adds lines as take_new_lines gives them; what is no such line, or has no end, is passed over. Says
  /// whether any was added.
  bool read_lines(std::string_view lines);
  /// Of what `probe` added since the last call, a line each.
  std::string take_new_lines();

  /// Adds what the file keeps; nothing where there is none, or of another release. Error{io}.
  void read(const std::filesystem::path& kept);
  /// Keeps all of it there, whole or not at all. Error{io}.
  void write(const std::filesystem::path& kept) const;
  bool empty() const { return known_.empty(); }

 private:
  std::map<std::string, std::string, std::less<>> known_;  ///< the rest of the line by path
  std::string new_lines_;
};

}  // namespace surgery
