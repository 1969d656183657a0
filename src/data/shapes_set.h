#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>

#include "data/shapes.h"

namespace surgery {

/// Writes `count` clips of a split as mp4 with their annotation in Open-Sora Plan's layout (`data.txt`,
/// `shapes.json`), so that training reads them like any other set. Existing files of the same name are kept.
/// Returns data.txt's path. `mine(i)`: whether this process writes clip i; the annotation is written by the
/// process for which `annotate` holds.
std::filesystem::path write_shapes_set(const std::filesystem::path& folder, ShapesSplit split, int64_t count,
                                       uint64_t seed, int64_t frames, int64_t height, int64_t width,
                                       double fps, const std::function<bool(int64_t)>& mine, bool annotate);

}  // namespace surgery
