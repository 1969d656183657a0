// The build without libav (SURGERY_VIDEO=OFF): everything that needs a video file says so.
#include "base/errors.h"
#include "data/video.h"

namespace surgery {

namespace {
[[noreturn]] void refuse(const std::filesystem::path& path) {
  fail_usage(
      "{}: this build reads and writes no video (SURGERY_VIDEO is off): configure with -DSURGERY_VIDEO=ON "
      "and the libav development packages",
      path.string());
}
}  // namespace

struct VideoWriter::State {};

bool video_supported() {
  return false;
}
VideoInfo probe_video(const std::filesystem::path& path) {
  refuse(path);
}
Clip load_clip(const std::filesystem::path& path, const ClipSpec&) {
  refuse(path);
}
at::Tensor read_clip(const std::filesystem::path& path, const ClipSpec&) {
  refuse(path);
}
VideoWriter::VideoWriter(const std::filesystem::path& path, int64_t, int64_t, const WriteSpec&) {
  refuse(path);
}
VideoWriter::~VideoWriter() = default;
VideoWriter::VideoWriter(VideoWriter&&) noexcept = default;
void VideoWriter::add(const at::Tensor&) {}
void VideoWriter::hold(int64_t) {}
void VideoWriter::finish() {}
std::string VideoWriter::encoder() const {
  return {};
}
std::string write_mp4(const std::filesystem::path& path, const at::Tensor&, const WriteSpec&) {
  refuse(path);
}

}  // namespace surgery
