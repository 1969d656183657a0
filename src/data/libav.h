#pragma once
// libav behind owning pointers. Include from *_libav.cpp only.
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/video.h"

namespace surgery::libav {

template <auto Free>
struct FreeByAddress {
  template <class T>
  void operator()(T* object) const {
    Free(&object);
  }
};
template <auto Free>
struct FreeByValue {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using InputPtr = std::unique_ptr<AVFormatContext, FreeByAddress<avformat_close_input>>;
using CodecPtr = std::unique_ptr<AVCodecContext, FreeByAddress<avcodec_free_context>>;
using FramePtr = std::unique_ptr<AVFrame, FreeByAddress<av_frame_free>>;
using PacketPtr = std::unique_ptr<AVPacket, FreeByAddress<av_packet_free>>;
using ScalePtr = std::unique_ptr<SwsContext, FreeByValue<sws_freeContext>>;

FramePtr new_frame();
PacketPtr new_packet();

/// Keeps libav off the terminal; its last error line of this thread is kept for our own messages. Idempotent.
void capture_messages();
void clear_message();
/// The library's text for `code`, with its last error line where there is one.
std::string describe(int code);
inline std::string describe_last() {
  return describe(0);
}

/// Display matrix of a stream, as orientation; and its opposite, for writing.
Orientation orientation_of_stream(const AVStream* stream);
void note_rotation(AVStream* stream, int clockwise_degrees);

/// Pulls the frames of a file's best video stream in display order, with their times.
class Decoder {
 public:
  Decoder(const std::filesystem::path& path, double deadline_seconds);
  Decoder(const Decoder&) = delete;

  const VideoInfo& info() const { return info_; }
  const Orientation& orientation() const { return orientation_; }
  int64_t stored_width() const { return codec_->width; }
  int64_t stored_height() const { return codec_->height; }
  double tick_seconds() const { return tick_; }
  bool constant_rate() const { return constant_rate_; }

  bool next();  ///< false at the end of the stream
  AVFrame* frame() const { return frame_.get(); }
  double seconds() const { return seconds_; }  ///< of frame(), the file's first frame being 0
  double end_seconds() const;                  ///< when the last frame read so far disappears
  /// Continues from a key frame not after `seconds`; from the first frame if the file cannot do that.
  void seek(double seconds);

 private:
  void open_stream();
  void restart();
  bool receive();
  void feed();
  double time_of_frame();
  void check_deadline() const;
  static int interrupted(void* decoder);

  std::filesystem::path path_;
  std::chrono::steady_clock::time_point deadline_;
  double deadline_seconds_;
  InputPtr input_;
  CodecPtr codec_;
  FramePtr frame_;
  PacketPtr packet_;
  int stream_ = -1;
  VideoInfo info_;
  Orientation orientation_;
  double tick_ = 0, seconds_ = 0, last_raw_ = 0, origin_ = 0, packet_end_ = 0;
  bool constant_rate_ = false, has_origin_ = false, has_time_ = false, draining_ = false;
};

/// Crops, converts and scales frames into RGB rows of one size.
class Scaler {
 public:
  Scaler(int64_t width, int64_t height);
  /// `frame` restricted to `crop` -> uint8 [height, width, 3]; valid until the next call.
  at::Tensor convert(const AVFrame* frame, const Box& crop);

 private:
  int width_, height_, stride_;
  std::vector<uint8_t> rows_;
  ScalePtr context_;
};

}  // namespace surgery::libav
