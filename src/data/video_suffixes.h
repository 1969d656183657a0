#pragma once

#include <array>
#include <string_view>

namespace surgery {

/// Suffixes of files that are taken for videos, in small letters.
inline constexpr std::array<std::string_view, 7> kVideoSuffixes{".mp4", ".webm", ".gif", ".mov",
                                                                ".mkv", ".avi",  ".m4v"};

}  // namespace surgery
