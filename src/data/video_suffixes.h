#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace surgery {

/// Suffixes of files that are taken for videos, in small letters.
inline constexpr std::array<std::string_view, 7> kVideoSuffixes{".mp4", ".webm", ".gif", ".mov",
                                                                ".mkv", ".avi",  ".m4v"};

/// Whether a file is called like a video, in letters of either case.
inline bool is_video_name(std::string_view name) {
  std::string lower(name.substr(std::min(name.rfind('.'), name.size())));
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return 'A' <= c && c <= 'Z' ? char(c + 32) : c; });
  return std::ranges::find(kVideoSuffixes, lower) != kVideoSuffixes.end();
}

}  // namespace surgery
