#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/errors.h"
#include "data/libav.h"

namespace surgery::libav {

namespace {

// Media files are untrusted: only local files, only these containers (playlists could name other files or
// hosts).
constexpr const char* kContainers = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,avi,mpegts";
constexpr int64_t kMaxSide = 16384, kMaxPixels = int64_t{8192} * 8192;
constexpr uintmax_t kMaxFileBytes = uintmax_t{64} << 30;

class Options {
 public:
  ~Options() { av_dict_free(&dictionary_); }
  void set(const char* key, const std::string& value) { av_dict_set(&dictionary_, key, value.c_str(), 0); }
  AVDictionary** get() { return &dictionary_; }

 private:
  AVDictionary* dictionary_ = nullptr;
};

void check_file(const std::filesystem::path& path) {
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (!std::filesystem::exists(status)) fail_io("{}: no such video file: check the path", path.string());
  VALIDATE(std::filesystem::is_regular_file(status), "{}: not a regular file: expected a video",
           path.string());
  const uintmax_t bytes = std::filesystem::file_size(path, code);
  if (code) fail_io("{}: {}", path.string(), code.message());
  VALIDATE(bytes > 0, "{}: the file is empty: expected a video", path.string());
  VALIDATE(bytes <= kMaxFileBytes, "{}: {} bytes (limit {}): cut the video into clips", path.string(), bytes,
           kMaxFileBytes);
}

double to_double(AVRational value) {
  return value.num > 0 && value.den > 0 ? av_q2d(value) : 0.0;
}

}  // namespace

Decoder::Decoder(const std::filesystem::path& path, double deadline_seconds)
    : path_(path),
      deadline_(std::chrono::steady_clock::now() +
                std::chrono::milliseconds(static_cast<int64_t>(deadline_seconds * 1000))),
      deadline_seconds_(deadline_seconds),
      frame_(new_frame()),
      packet_(new_packet()) {
  capture_messages();
  clear_message();
  check_file(path);
  AVFormatContext* context = avformat_alloc_context();
  if (!context) throw std::bad_alloc();
  context->interrupt_callback = {&Decoder::interrupted, this};
  context->max_analyze_duration = 10 * AV_TIME_BASE;
  Options options;
  options.set("protocol_whitelist", "file");
  options.set("format_whitelist", kContainers);
  const std::string url = "file:" + path.string();
  const int code = avformat_open_input(&context, url.c_str(), nullptr, options.get());  // frees on failure
  check_deadline();
  if (code == AVERROR(EACCES) || code == AVERROR(EIO))
    fail_io("{}: cannot be read ({}): check its permissions and the disk", path.string(), describe(code));
  if (code < 0)
    fail_data("{}: not a readable video ({}): expected mp4, mov, webm, mkv, avi or gif", path.string(),
              describe(code));
  input_.reset(context);
  open_stream();
}

void Decoder::open_stream() {
  int code = avformat_find_stream_info(input_.get(), nullptr);
  check_deadline();
  if (code < 0)
    fail_data("{}: no stream could be read ({}): the file is damaged", path_.string(), describe(code));
  const AVCodec* codec = nullptr;
  stream_ = av_find_best_stream(input_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  VALIDATE(stream_ >= 0, "{}: holds no video stream: expected a video", path_.string());
  for (unsigned i = 0; i < input_->nb_streams; ++i)
    if (static_cast<int>(i) != stream_) input_->streams[i]->discard = AVDISCARD_ALL;
  AVStream* stream = input_->streams[stream_];
  const AVCodecParameters* parameters = stream->codecpar;
  codec = avcodec_find_decoder(parameters->codec_id);
  VALIDATE(codec, "{}: codec {} has no decoder in this libav: convert the video to H.264", path_.string(),
           avcodec_get_name(parameters->codec_id));
  VALIDATE(parameters->width > 0 && parameters->height > 0,
           "{}: the video stream has no picture size: the file is damaged or truncated", path_.string());
  VALIDATE(parameters->width <= kMaxSide && parameters->height <= kMaxSide &&
               int64_t{parameters->width} * parameters->height <= kMaxPixels,
           "{}: pictures of {}x{} exceed the limit of {} pixels: scale the video down", path_.string(),
           parameters->width, parameters->height, kMaxPixels);

  codec_.reset(avcodec_alloc_context3(codec));
  if (!codec_ || avcodec_parameters_to_context(codec_.get(), parameters) < 0) throw std::bad_alloc();
  codec_->pkt_timebase = stream->time_base;
  codec_->thread_count = 1;
  codec_->max_pixels = kMaxPixels;
  code = avcodec_open2(codec_.get(), codec, nullptr);
  if (code < 0)
    fail_data("{}: the {} decoder refuses the stream ({})", path_.string(), codec->name, describe(code));

  tick_ = av_q2d(stream->time_base);
  orientation_ = orientation_of_stream(stream);
  info_.width = orientation_.transpose ? parameters->height : parameters->width;
  info_.height = orientation_.transpose ? parameters->width : parameters->height;
  info_.rotation = orientation_.clockwise_degrees();
  const double average = to_double(stream->avg_frame_rate), nominal = to_double(stream->r_frame_rate);
  info_.fps = average > 0 ? average : nominal;
  constant_rate_ = info_.fps > 0 && std::abs(nominal - info_.fps) <= 0.005 * info_.fps;
  info_.frames = stream->nb_frames;
  if (stream->duration > 0)
    info_.duration_seconds = static_cast<double>(stream->duration) * tick_;
  else if (input_->duration > 0)
    info_.duration_seconds = static_cast<double>(input_->duration) / AV_TIME_BASE;
  const double aspect = to_double(av_guess_sample_aspect_ratio(input_.get(), stream, nullptr));
  info_.pixel_aspect = aspect > 0 ? aspect : 1.0;
  info_.container = input_->iformat->name;
  if (const AVDictionaryEntry* entry = av_dict_get(input_->metadata, "comment", nullptr, 0))
    info_.comment = entry->value;
  info_.codec = avcodec_get_name(parameters->codec_id);
  const char* format = av_get_pix_fmt_name(static_cast<AVPixelFormat>(parameters->format));
  info_.pixel_format = format ? format : "unknown";
}

int Decoder::interrupted(void* decoder) {
  return std::chrono::steady_clock::now() > static_cast<Decoder*>(decoder)->deadline_ ? 1 : 0;
}

void Decoder::check_deadline() const {
  VALIDATE(std::chrono::steady_clock::now() <= deadline_,
           "{}: reading took longer than {} s (a damaged index, or a stalled disk): leave the file out or "
           "raise the "
           "deadline",
           path_.string(), deadline_seconds_);
}

/// Sends one packet of our stream, or the end of the file, to the decoder.
void Decoder::feed() {
  while (true) {
    check_deadline();
    av_packet_unref(packet_.get());
    const int code = av_read_frame(input_.get(), packet_.get());
    if (code == AVERROR_EOF) {
      avcodec_send_packet(codec_.get(), nullptr);  // drain: the last frames wait for it
      draining_ = true;
      return;
    }
    if (code < 0) {
      check_deadline();
      fail_data("{}: reading stopped at {:.3f} s ({}): the file is damaged or truncated", path_.string(),
                seconds_, describe(code));
    }
    if (packet_->stream_index != stream_) continue;
    VALIDATE(!(packet_->flags & AV_PKT_FLAG_CORRUPT),
             "{}: a packet after {:.3f} s is incomplete: the file is damaged or truncated", path_.string(),
             seconds_);
    const int64_t stamp = packet_->pts != AV_NOPTS_VALUE ? packet_->pts : packet_->dts;
    if (stamp != AV_NOPTS_VALUE && packet_->duration > 0)
      packet_end_ = std::max(packet_end_, static_cast<double>(stamp + packet_->duration) * tick_);
    const int sent = avcodec_send_packet(codec_.get(), packet_.get());
    if (sent < 0 && sent != AVERROR_EOF)
      fail_data("{}: a packet after {:.3f} s cannot be decoded ({}): the file is damaged", path_.string(),
                seconds_, describe(sent));
    return;
  }
}

bool Decoder::receive() {
  while (true) {
    const int code = avcodec_receive_frame(codec_.get(), frame_.get());
    if (code == 0) return true;
    if (code == AVERROR_EOF) return false;
    if (code != AVERROR(EAGAIN))
      fail_data("{}: a frame after {:.3f} s cannot be decoded ({}): the file is damaged", path_.string(),
                seconds_, describe(code));
    if (draining_) return false;
    feed();
  }
}

/// Seconds on the stream's own clock; from the frame rate where stamps are missing or run backwards.
double Decoder::time_of_frame() {
  const double step = info_.fps > 0 ? 1.0 / info_.fps : 0.04;
  int64_t stamp = frame_->best_effort_timestamp;
  if (stamp == AV_NOPTS_VALUE) stamp = frame_->pts != AV_NOPTS_VALUE ? frame_->pts : frame_->pkt_dts;
  if (stamp == AV_NOPTS_VALUE) return has_time_ ? last_raw_ + step : 0.0;
  const double raw = static_cast<double>(stamp) * tick_;
  return has_time_ && raw <= last_raw_ ? last_raw_ + tick_ : raw;
}

bool Decoder::next() {
  av_frame_unref(frame_.get());
  if (!receive()) return false;
  const double raw = time_of_frame();
  last_raw_ = raw;
  has_time_ = true;
  if (!has_origin_) {
    origin_ = raw;
    has_origin_ = true;
  }
  seconds_ = raw - origin_;
  VALIDATE(frame_->width == codec_->width && frame_->height == codec_->height &&
               (orientation_.transpose ? info_.height : info_.width) == frame_->width,
           "{}: the picture size changes to {}x{} at {:.3f} s (a clip has one size): cut the video there",
           path_.string(), frame_->width, frame_->height, seconds_);
  return true;
}

double Decoder::end_seconds() const {
  const double step = info_.fps > 0 ? 1.0 / info_.fps : 0.04;
  const double by_packets = packet_end_ - origin_;
  return by_packets > seconds_ + 0.5 * tick_ ? by_packets : seconds_ + step;
}

void Decoder::restart() {
  const AVStream* stream = input_->streams[stream_];
  const int64_t begin = stream->start_time != AV_NOPTS_VALUE ? stream->start_time : 0;
  const int code =
      avformat_seek_file(input_.get(), stream_, INT64_MIN, begin, INT64_MAX, AVSEEK_FLAG_BACKWARD);
  if (code < 0) fail_data("{}: cannot be read again from its beginning ({})", path_.string(), describe(code));
  avcodec_flush_buffers(codec_.get());
  draining_ = false;
  has_time_ = false;
}

void Decoder::seek(double seconds) {
  VALIDATE(next(), "{}: holds no video frame: the file is damaged or truncated", path_.string());
  // Decoding a second of frames is cheaper and safer than a jump.
  if (seconds > 1.0) {
    const int64_t target = std::llround((origin_ + seconds) / tick_);
    if (av_seek_frame(input_.get(), stream_, target, AVSEEK_FLAG_BACKWARD) >= 0) {
      avcodec_flush_buffers(codec_.get());
      draining_ = false;
      has_time_ = false;
      if (next() && seconds_ <= seconds) {
        // the frame just read may itself be wanted: go back to where it is the next one
        av_seek_frame(input_.get(), stream_, target, AVSEEK_FLAG_BACKWARD);
        avcodec_flush_buffers(codec_.get());
        draining_ = false;
        has_time_ = false;
        return;
      }
    }
  }
  restart();
}

}  // namespace surgery::libav
