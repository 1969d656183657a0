#pragma once
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "base/tensor.h"
#include "data/clip_window.h"

namespace surgery {

/// What a video file says about itself, before any frame but the first is decoded.
struct VideoInfo {
  int64_t width = 0, height = 0;  ///< pixels as displayed (rotation applied, pixel aspect not)
  double fps = 0;                 ///< average frames per second; 0 when the container does not say
  double duration_seconds = 0;    ///< 0 when the container does not say
  int64_t frames = 0;             ///< the container's own count; 0 when it does not say
  int rotation = 0;               ///< clockwise degrees that the display matrix asks for
  double pixel_aspect = 1;        ///< width of a stored pixel over its height
  std::string container, codec, pixel_format;
  std::string comment;  ///< the container's tag of that name; empty when there is none
};

enum class ShortClip { refuse, shorten };    ///< too few frames: an error, or the largest 4k+1 there is
enum class SmallSource { refuse, upscale };  ///< fewer pixels than asked for: an error, or enlarge
enum class SlowSource { repeat, refuse };    ///< fewer frames a second than asked for: repeat, or an error

/// Which frames of a file, and at which size.
struct ClipSpec {
  int64_t frames = 81;  ///< 4k+1
  double fps = 16;
  int64_t height = 480, width = 832;
  double start_seconds = 0;       ///< from the first displayed frame
  std::optional<Box> crop;        ///< displayed source pixels to stay within
  std::optional<FrameRange> cut;  ///< source frames to stay within; start_seconds counts from its begin
  ShortClip short_clip = ShortClip::refuse;
  SmallSource small_source = SmallSource::refuse;
  SlowSource slow_source = SlowSource::repeat;
  double deadline_seconds = 60;  ///< of wall time for one file
};

/// A clip with its provenance.
struct Clip {
  at::Tensor pixels;  ///< uint8 [T, H, W, 3], RGB full range, CPU
  VideoInfo source;
  Box crop;                  ///< stored source pixels that the clip shows
  double start_seconds = 0;  ///< of frame 0, from the first displayed frame
};

/// True when this build reads and writes video; without, every function here throws Error{usage}.
bool video_supported();

/// Opens mp4, mov, webm, mkv, avi or gif. Throws Error{data} for what is not a video, Error{io} if
/// unreadable.
VideoInfo probe_video(const std::filesystem::path& path);

/// Frame k of the clip is the frame displayed at start + k / fps (the largest time stamp not above it, half a
/// tick of tolerance; no interpolation); a source within 0.1 of the asked rate is taken frame by frame. The
/// largest centred part of the asked aspect is scaled in one bicubic pass with the file's own colour matrix
/// and range. Decodes on the calling thread only. Throws Error{data} naming the file and the frames that are
/// available.
Clip load_clip(const std::filesystem::path& path, const ClipSpec& spec);

/// The pixels of load_clip: uint8 [T, H, W, 3].
at::Tensor read_clip(const std::filesystem::path& path, const ClipSpec& spec);

struct WriteSpec {
  double fps = 16;
  int quality = 10;          ///< x264's CRF (0 lossless .. 51); 10 is what Wan's own writer uses
  std::string encoder = {};  ///< a libav encoder; empty: chosen by the file's suffix
  int rotation = 0;          ///< clockwise degrees to note in the file; a multiple of 90
  std::string comment = {};  ///< noted in the container (not in a gif)
};

/// Writes .mp4 (libx264, else libopenh264, else mpeg4 with a warning), .webm or .gif frame by frame: yuv420p,
/// BT.601 limited range (tagged, and what untagged readers assume), one thread, so equal input gives equal
/// bytes. The file appears at `finish`; a writer that is destroyed before removes its temporary.
class VideoWriter {
 public:
  VideoWriter(const std::filesystem::path& path, int64_t height, int64_t width, const WriteSpec& spec = {});
  ~VideoWriter();
  VideoWriter(VideoWriter&&) noexcept;
  void add(const at::Tensor& frames);  ///< uint8 [T, H, W, 3]
  void hold(int64_t ticks);            ///< shows the frame before for `ticks` / fps longer
  void finish();
  std::string encoder() const;  ///< the one in use, for the record beside scores

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Writes a whole clip, uint8 [T, H, W, 3], H and W even, atomically. Returns the encoder's name.
std::string write_mp4(const std::filesystem::path& path, const at::Tensor& frames,
                      const WriteSpec& spec = {});

}  // namespace surgery
