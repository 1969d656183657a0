#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/errors.h"
#include "data/libav.h"

namespace surgery {

namespace libav {

Scaler::Scaler(int64_t width, int64_t height)
    : width_(static_cast<int>(width)),
      height_(static_cast<int>(height)),
      stride_((static_cast<int>(width) * 3 + 63) / 64 * 64 + 64),  // vector code writes past a narrow row
      rows_(static_cast<size_t>(stride_) * static_cast<size_t>(height) + 64) {}

at::Tensor Scaler::convert(const AVFrame* frame, const Box& crop) {
  FramePtr part = new_frame();
  if (av_frame_ref(part.get(), frame) < 0) throw std::bad_alloc();
  part->crop_left = static_cast<size_t>(crop.x0);
  part->crop_top = static_cast<size_t>(crop.y0);
  part->crop_right = static_cast<size_t>(frame->width - crop.x1);
  part->crop_bottom = static_cast<size_t>(frame->height - crop.y1);
  if (av_frame_apply_cropping(part.get(), AV_FRAME_CROP_UNALIGNED) < 0)
    fail_data("a frame of {}x{} cannot be cropped", frame->width, frame->height);

  const auto format = static_cast<AVPixelFormat>(part->format);
  context_.reset(sws_getCachedContext(
      context_.release(), part->width, part->height, format, width_, height_, AV_PIX_FMT_RGB24,
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT, nullptr, nullptr, nullptr));
  if (!context_) {
    const char* name = av_get_pix_fmt_name(format);
    fail_data("pixel format {} cannot be converted to RGB ({})", name ? name : "unknown", describe_last());
  }
  // An untagged stream is read as BT.601 limited, as libav itself and the readers built on it do.
  const int matrix = part->colorspace == AVCOL_SPC_UNSPECIFIED || part->colorspace == AVCOL_SPC_RGB
                         ? static_cast<int>(SWS_CS_DEFAULT)
                         : static_cast<int>(part->colorspace);
  const AVPixFmtDescriptor* descriptor = av_pix_fmt_desc_get(format);
  const bool rgb = descriptor && (descriptor->flags & AV_PIX_FMT_FLAG_RGB);
  const bool full = rgb || part->color_range == AVCOL_RANGE_JPEG || format == AV_PIX_FMT_YUVJ420P ||
                    format == AV_PIX_FMT_YUVJ422P || format == AV_PIX_FMT_YUVJ444P;
  sws_setColorspaceDetails(context_.get(), sws_getCoefficients(matrix), full ? 1 : 0,
                           sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
  uint8_t* planes[4] = {rows_.data(), nullptr, nullptr, nullptr};
  const int strides[4] = {stride_, 0, 0, 0};
  const int rows = sws_scale(context_.get(), part->data, part->linesize, 0, part->height, planes, strides);
  if (rows != height_) fail_data("a frame cannot be scaled to {}x{} ({})", width_, height_, describe_last());
  return at::from_blob(rows_.data(), {height_, width_, 3}, {stride_, 3, 1}, at::kByte);
}

namespace {

/// The displayed orientation of a stored picture [h, w, 3].
at::Tensor orient(at::Tensor picture, const Orientation& orientation) {
  if (orientation.transpose) picture = picture.transpose(0, 1);
  if (orientation.flip_x) picture = picture.flip(1);
  if (orientation.flip_y) picture = picture.flip(0);
  return picture;
}

void check_spec(const ClipSpec& spec) {
  if (!is_causal_length(spec.frames))
    fail_usage("a clip of {} frames was asked for (the causal VAE takes 4k+1): ask for {} or {}", spec.frames,
               std::max<int64_t>(1, largest_causal_length(spec.frames)),
               largest_causal_length(spec.frames + 3));
  if (!(spec.fps > 0 && spec.fps <= 1000))
    fail_usage("{} frames a second were asked for: give 0 < fps <= 1000", spec.fps);
  if (spec.height < 1 || spec.width < 1 || spec.height > 8192 || spec.width > 8192)
    fail_usage("a clip of {}x{} pixels was asked for: give sides of 1 to 8192", spec.width, spec.height);
  if (!(spec.start_seconds >= 0))
    fail_usage("a clip cannot start at {} s: give 0 or more", spec.start_seconds);
}

Box stored_crop(const std::filesystem::path& path, const Decoder& source, const ClipSpec& spec) {
  const VideoInfo& info = source.info();
  Box displayed = spec.crop.value_or(Box{0, info.width, 0, info.height});
  VALIDATE(displayed.x0 >= 0 && displayed.y0 >= 0 && displayed.x0 < displayed.x1 &&
               displayed.y0 < displayed.y1 && displayed.x1 <= info.width && displayed.y1 <= info.height,
           "{}: crop [{}, {}, {}, {}] (x0, x1, y0, y1) does not lie in the picture of {}x{}: correct the "
           "annotation",
           path.string(), displayed.x0, displayed.x1, displayed.y0, displayed.y1, info.width, info.height);
  const bool turned = source.orientation().transpose;
  const Box within =
      to_stored(displayed, source.orientation(), source.stored_width(), source.stored_height());
  const int64_t width = turned ? spec.height : spec.width, height = turned ? spec.width : spec.height;
  const Box crop = covering_crop(within, info.pixel_aspect, width, height);
  VALIDATE(spec.small_source == SmallSource::upscale || (crop.width() >= width && crop.height() >= height),
           "{}: its usable part of {}x{} is smaller than the clip of {}x{}: allow upscaling, or ask for a "
           "smaller clip",
           path.string(), turned ? crop.height() : crop.width(), turned ? crop.width() : crop.height(),
           spec.width, spec.height);
  return crop;
}

/// Stamps are rounded to ticks, so a comparison allows half of one; where a tick is as long as a frame,
/// stamps are exact.
double half_tick(const Decoder& source) {
  const double fps = source.info().fps;
  return fps > 0 ? std::min(0.5 * source.tick_seconds(), 0.1 / fps) : 0.5 * source.tick_seconds();
}

/// Takes frames as they come and fills the clip by the time-stamp rule.
class Sampler {
 public:
  Sampler(const Decoder& source, const ClipSpec& spec, double start, double end, const Box& crop)
      : source_(source),
        spec_(spec),
        start_(start),
        end_(end),
        crop_(crop),
        slack_(half_tick(source)),
        frame_by_frame_(source.constant_rate() && std::abs(source.info().fps - spec.fps) < 0.1),
        scaler_(source.orientation().transpose ? spec.height : spec.width,
                source.orientation().transpose ? spec.width : spec.height),
        pixels_(at::empty({spec.frames, spec.height, spec.width, 3}, at::kByte)),
        shown_(new_frame()) {}

  bool full() const { return filled_ == spec_.frames; }
  int64_t filled() const { return filled_; }
  at::Tensor pixels() const { return pixels_.slice(0, 0, filled_); }

  /// False when no later frame can matter.
  bool take(AVFrame* frame, double seconds) {
    if (frame_by_frame_) {
      if (seconds >= end_ - slack_) return false;
      if (seconds >= start_ - slack_) emit(frame);
      return !full();
    }
    if (shown_->width > 0) show_until(seconds);
    if (full() || seconds >= end_ - slack_) return false;
    av_frame_unref(shown_.get());
    if (av_frame_ref(shown_.get(), frame) < 0) throw std::bad_alloc();
    fresh_ = true;
    return true;
  }

  /// The last frame stays on screen until `seconds`.
  void finish(double seconds) {
    if (!frame_by_frame_ && shown_->width > 0) show_until(std::min(seconds, end_));
  }

 private:
  void show_until(double seconds) {
    while (!full()) {
      const double due = start_ + static_cast<double>(filled_) / spec_.fps;
      if (due + slack_ >= seconds || due >= end_ - slack_) return;
      if (fresh_ || filled_ == 0)
        emit(shown_.get());
      else {
        pixels_[filled_].copy_(pixels_[filled_ - 1]);
        ++filled_;
      }
    }
  }

  void emit(AVFrame* frame) {
    // Concealed damage would go unnoticed into the training set.
    VALIDATE(!(frame->flags & AV_FRAME_FLAG_CORRUPT) && frame->decode_error_flags == 0,
             "frame {} of the clip is damaged ({})", filled_, describe_last());
    pixels_[filled_].copy_(orient(scaler_.convert(frame, crop_), source_.orientation()));
    ++filled_;
    fresh_ = false;
  }

  const Decoder& source_;
  const ClipSpec& spec_;
  double start_, end_;
  Box crop_;
  double slack_;
  bool frame_by_frame_, fresh_ = false;
  Scaler scaler_;
  at::Tensor pixels_;
  FramePtr shown_;
  int64_t filled_ = 0;
};

}  // namespace
}  // namespace libav

bool video_supported() {
  return true;
}

VideoInfo probe_video(const std::filesystem::path& path) {
  libav::Decoder source(path, 60);
  VALIDATE(source.next(), "{}: holds no video frame: the file is damaged or truncated", path.string());
  return source.info();
}

Clip load_clip(const std::filesystem::path& path, const ClipSpec& spec) {
  libav::check_spec(spec);
  libav::Decoder source(path, spec.deadline_seconds);
  const VideoInfo& info = source.info();
  VALIDATE(spec.slow_source == SlowSource::repeat || info.fps >= spec.fps - 0.1,
           "{}: {:.3f} frames a second, fewer than the {} of the clip: allow frames to be repeated",
           path.string(), info.fps, spec.fps);
  double start = spec.start_seconds, end = std::numeric_limits<double>::infinity();
  if (spec.cut) {
    VALIDATE(info.fps > 0, "{}: no frame rate (a cut in frames needs one): give the cut in seconds",
             path.string());
    VALIDATE(spec.cut->begin >= 0 && (spec.cut->end < 0 || spec.cut->end > spec.cut->begin),
             "{}: cut [{}, {}] is empty: correct the annotation", path.string(), spec.cut->begin,
             spec.cut->end);
    start += static_cast<double>(spec.cut->begin) / info.fps;
    if (spec.cut->end >= 0) end = static_cast<double>(spec.cut->end) / info.fps;
  }
  Clip clip;
  clip.start_seconds = start;
  clip.crop = libav::stored_crop(path, source, spec);
  source.seek(start);
  libav::Sampler sampler(source, spec, start, end, clip.crop);
  try {
    while (source.next() && sampler.take(source.frame(), source.seconds())) {
    }
    if (!sampler.full()) sampler.finish(source.end_seconds());
  } catch (const Error& error) {
    const std::string what = error.what();
    if (what.rfind(path.string(), 0) == 0) throw;
    throw Error(error.code(), path.string() + ": " + what);
  }
  const int64_t usable = largest_causal_length(sampler.filled());
  if (!sampler.full()) {
    VALIDATE(
        spec.short_clip == ShortClip::shorten && usable > 0,
        "{}: {} frames available at {} fps from {:.3f} s, {} asked for: ask for {} or fewer, or leave it out",
        path.string(), sampler.filled(), spec.fps, start, spec.frames, usable);
  }
  clip.pixels = sampler.pixels().slice(0, 0, usable);
  clip.source = info;
  return clip;
}

at::Tensor read_clip(const std::filesystem::path& path, const ClipSpec& spec) {
  return load_clip(path, spec).pixels;
}

}  // namespace surgery
