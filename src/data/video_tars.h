#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "data/manifest.h"

namespace surgery {

/// Whether the tar shards of `place` (list_web_shards) hold videos, by the first that holds either; then they
/// are no WebDataset of latents. False where `place` holds no tar, or none that can be read.
bool holds_videos(const std::filesystem::path& place);

/// Whether a name of data.videos means finished latents: tar shards, not of videos.
bool holds_latents(const std::filesystem::path& place);

/// Unpacks shards of videos into `folder`, SHARD/KEY.mp4, with an annotation in Open-Sora Plan's layout
/// (data.txt, tars.json) that is read like any other set's. A video's caption is its neighbour's of the same
/// key: KEY.txt or KEY.prompt.txt, else KEY.json's `cap`, `caption`, `prompt` or `text` (of a list the
/// first); without one it is written without a caption, and so rejected by name when the annotation is read.
/// Files that are there in their size, with their tar's time of change, are kept. Returns data.txt's path.
/// `mine(i)`: whether this process unpacks the i-th shard; the annotation is written by the process for which
/// `annotate` holds, whose `rejected` gets the damaged archives: of those, what lies before the fault is
/// unpacked. Error{io}; Error{data} where there is no video at all.
std::filesystem::path unpack_video_tars(const std::filesystem::path& place,
                                        const std::filesystem::path& folder,
                                        const std::function<bool(int64_t)>& mine, bool annotate,
                                        std::vector<RejectedRecord>& rejected);

}  // namespace surgery
