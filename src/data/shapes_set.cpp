#include "data/shapes_set.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "data/video.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

/// Whether a clip of an earlier call is there and still reads whole; one that does not is set aside. Left as
/// it is, it would change the set: its latents' fingerprint, then the set's size.
bool is_there(const std::filesystem::path& path, int64_t frames, int64_t height, int64_t width, double fps) {
  if (!std::filesystem::exists(path)) return false;
  if (!video_supported()) return true;
  ClipSpec spec;
  spec.frames = frames;
  spec.fps = fps;
  spec.height = height;
  spec.width = width;
  try {
    read_clip(path, spec);
    return true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    set_aside(path, error.what());
    return false;
  }
}

}  // namespace

std::filesystem::path write_shapes_set(const std::filesystem::path& folder, ShapesSplit split, int64_t count,
                                       uint64_t seed, int64_t frames, int64_t height, int64_t width,
                                       double fps, const std::function<bool(int64_t)>& mine, bool annotate) {
  const auto name_of = [&](int64_t i) {
    return fmt::format("{}-{:06d}.mp4", to_string(split).substr(to_string(split).find(':') + 1), i);
  };
  for (int64_t i = 0; i < count; ++i)
    if (const auto path = folder / name_of(i); mine(i) && !is_there(path, frames, height, width, fps))
      write_mp4(path, shapes_clip(split, i, seed, frames, height, width).frames, {.fps = fps});
  if (annotate) {
    // Not between the clips: what stays keeps the heap from giving a clip's memory to the next one.
    nlohmann::ordered_json annotation = nlohmann::ordered_json::array();
    for (int64_t i = 0; i < count; ++i)
      annotation.push_back({{"path", name_of(i)},
                            {"cap", {shapes_caption(shapes_attributes(split, i))}},
                            {"resolution", {{"height", height}, {"width", width}}},
                            {"fps", fps},
                            {"num_frames", frames},
                            {"duration", static_cast<double>(frames) / fps}});
    write_file(folder / "shapes.json", annotation.dump(1) + "\n");
    write_file(folder / "data.txt", ",shapes.json\n");
  }
  return folder / "data.txt";
}

}  // namespace surgery
