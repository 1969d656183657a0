#include <fmt/ranges.h>

#include <cmath>
#include <system_error>

#include "base/errors.h"
#include "base/log.h"
#include "data/libav.h"
#include "storage/atomic_file.h"

namespace surgery {

using libav::describe;

namespace {

struct FreeOutput {
  void operator()(AVFormatContext* context) const {
    if (context->pb) avio_closep(&context->pb);
    avformat_free_context(context);
  }
};

const AVCodec* find_encoder(const std::string& suffix, const std::string& asked) {
  if (!asked.empty()) {
    const AVCodec* codec = avcodec_find_encoder_by_name(asked.c_str());
    if (!codec) fail_usage("this libav has no encoder '{}': name another, or none", asked);
    return codec;
  }
  if (suffix == ".gif") return avcodec_find_encoder_by_name("gif");
  if (suffix == ".webm") {
    const AVCodec* codec = avcodec_find_encoder_by_name("libvpx-vp9");
    return codec ? codec : avcodec_find_encoder_by_name("libvpx");
  }
  // x264 is GPL: a build without it is common, so it is looked up here and never linked.
  for (const char* name : {"libx264", "libopenh264"})
    if (const AVCodec* codec = avcodec_find_encoder_by_name(name)) return codec;
  const AVCodec* codec = avcodec_find_encoder_by_name("mpeg4");
  if (codec)
    log_warning("no H.264 encoder in this libav: writing MPEG-4 part 2 (scores of videos may shift)");
  return codec;
}

AVPixelFormat choose_format(const AVCodec* codec) {
  return std::string(codec->name) == "gif" ? AV_PIX_FMT_RGB8 : AV_PIX_FMT_YUV420P;
}

void set_quality(AVCodecContext* codec, int quality) {
  const std::string name = codec->codec->name;
  if (name == "libx264" || name == "libvpx-vp9" || name == "libvpx") {
    av_opt_set_int(codec->priv_data, "crf", quality, 0);
    // For small pictures, x264's macroblock tree depends on memory it never wrote: equal frames gave unequal
    // bytes.
    if (name == "libx264") av_opt_set_int(codec->priv_data, "mbtree", 0, 0);
    if (name != "libx264")
      codec->bit_rate = name == "libvpx" ? 20'000'000 : 0;  // vp8's CRF is bounded by a rate
  } else if (name == "libopenh264") {
    codec->qmin = codec->qmax = quality;
    codec->bit_rate = 50'000'000;
  } else {
    codec->flags |= AV_CODEC_FLAG_QSCALE;
    codec->global_quality = FF_QP2LAMBDA * std::max(1, quality / 5);
  }
}

}  // namespace

struct VideoWriter::State {
  std::filesystem::path path, temporary;
  std::unique_ptr<AVFormatContext, FreeOutput> output;
  libav::CodecPtr codec;
  libav::FramePtr frame;
  libav::PacketPtr packet;
  libav::ScalePtr scale;
  AVStream* stream = nullptr;
  int64_t tick = 0, last_duration = 1;
  bool committed = false;

  ~State() {
    output.reset();
    std::error_code ignored;
    if (!committed && !temporary.empty()) std::filesystem::remove(temporary, ignored);
  }

  void check(int code, const char* doing) const {
    if (code < 0) fail_io("{}: {} failed ({})", path.string(), doing, describe(code));
  }

  void open(const std::string& suffix, int64_t height, int64_t width, const WriteSpec& spec) {
    const AVCodec* encoder = find_encoder(suffix, spec.encoder);
    if (!encoder) fail_usage("{}: this libav has no encoder for {}: write .mp4", path.string(), suffix);
    temporary = temporary_name(path);
    const std::string container = suffix == ".gif" ? "gif" : suffix == ".webm" ? "webm" : "mp4";
    AVFormatContext* context = nullptr;
    check(avformat_alloc_output_context2(&context, nullptr, container.c_str(), nullptr),
          "choosing the container");
    output.reset(context);
    output->flags |= AVFMT_FLAG_BITEXACT;  // no time stamps, no library version
    stream = avformat_new_stream(context, nullptr);
    codec.reset(avcodec_alloc_context3(encoder));
    if (!stream || !codec) throw std::bad_alloc();

    codec->width = static_cast<int>(width);
    codec->height = static_cast<int>(height);
    codec->framerate = av_d2q(spec.fps, 100000);
    codec->time_base = av_inv_q(codec->framerate);
    codec->pix_fmt = choose_format(encoder);
    codec->thread_count = 1;  // same bytes whatever the machine
    codec->flags |= AV_CODEC_FLAG_BITEXACT;
    if (output->oformat->flags & AVFMT_GLOBALHEADER) codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (codec->pix_fmt == AV_PIX_FMT_YUV420P) {
      codec->colorspace = AVCOL_SPC_SMPTE170M;
      codec->color_primaries = AVCOL_PRI_SMPTE170M;
      codec->color_trc = AVCOL_TRC_SMPTE170M;
      codec->color_range = AVCOL_RANGE_MPEG;
    }
    set_quality(codec.get(), spec.quality);
    check(avcodec_open2(codec.get(), encoder, nullptr), "opening the encoder");
    check(avcodec_parameters_from_context(stream->codecpar, codec.get()), "describing the stream");
    stream->time_base = codec->time_base;
    stream->avg_frame_rate = codec->framerate;
    if (spec.rotation != 0) libav::note_rotation(stream, spec.rotation);
    if (!spec.comment.empty())
      check(av_dict_set(&output->metadata, "comment", spec.comment.c_str(), 0), "noting the comment");
    check(avio_open(&output->pb, ("file:" + temporary.string()).c_str(), AVIO_FLAG_WRITE),
          "creating the file");
    check(avformat_write_header(output.get(), nullptr), "writing the header");

    frame = libav::new_frame();
    packet = libav::new_packet();
    frame->format = codec->pix_fmt;
    frame->width = codec->width;
    frame->height = codec->height;
    frame->color_range = codec->color_range;
    frame->colorspace = codec->colorspace;
    check(av_frame_get_buffer(frame.get(), 0), "allocating a frame");
    scale.reset(sws_getContext(
        codec->width, codec->height, AV_PIX_FMT_RGB24, codec->width, codec->height, codec->pix_fmt,
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_BITEXACT, nullptr, nullptr, nullptr));
    if (!scale) fail_io("{}: no conversion from RGB ({})", path.string(), libav::describe_last());
    sws_setColorspaceDetails(scale.get(), sws_getCoefficients(SWS_CS_DEFAULT), 1,
                             sws_getCoefficients(SWS_CS_ITU601), codec->pix_fmt == AV_PIX_FMT_YUV420P ? 0 : 1,
                             0, 1 << 16, 1 << 16);
  }

  void encode(const AVFrame* picture) {
    check(avcodec_send_frame(codec.get(), picture), "encoding");
    while (true) {
      const int code = avcodec_receive_packet(codec.get(), packet.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      check(code, "encoding");
      if (packet->duration <= 0) packet->duration = 1;
      av_packet_rescale_ts(packet.get(), codec->time_base, stream->time_base);
      packet->stream_index = stream->index;
      check(av_interleaved_write_frame(output.get(), packet.get()), "writing");
    }
  }
};

VideoWriter::VideoWriter(const std::filesystem::path& path, int64_t height, int64_t width,
                         const WriteSpec& spec)
    : state_(std::make_unique<State>()) {
  libav::capture_messages();
  libav::clear_message();
  const std::string suffix = path.extension().string();
  if (suffix != ".mp4" && suffix != ".webm" && suffix != ".gif")
    fail_usage("{}: unknown kind of video '{}': write .mp4, .webm or .gif", path.string(), suffix);
  if (!(spec.fps > 0 && spec.fps <= 1000))
    fail_usage("{}: {} fps: give 0 < fps <= 1000", path.string(), spec.fps);
  if (spec.quality < 0 || spec.quality > 51)
    fail_usage("{}: quality {}: give 0 to 51", path.string(), spec.quality);
  if (spec.rotation % 90 != 0)
    fail_usage("{}: rotation {}: give a multiple of 90", path.string(), spec.rotation);
  VALIDATE(height > 0 && width > 0 && height <= 8192 && width <= 8192,
           "{}: pictures of {}x{}: sides are 1 to 8192", path.string(), width, height);
  VALIDATE(suffix == ".gif" || (height % 2 == 0 && width % 2 == 0),
           "{}: pictures of {}x{} (yuv420p halves both sides): crop to even sides", path.string(), width,
           height);
  state_->path = path;
  state_->open(suffix, height, width, spec);
}

VideoWriter::~VideoWriter() = default;
VideoWriter::VideoWriter(VideoWriter&&) noexcept = default;

std::string VideoWriter::encoder() const {
  return state_->codec->codec->name;
}

void VideoWriter::add(const at::Tensor& frames) {
  State& s = *state_;
  VALIDATE(frames.dim() == 4 && frames.scalar_type() == at::kByte && frames.size(1) == s.codec->height &&
               frames.size(2) == s.codec->width && frames.size(3) == 3,
           "{}: frames have shape {} and type {}: expected uint8 [T, {}, {}, 3]", s.path.string(),
           fmt::join(frames.sizes(), "x"), c10::toString(frames.scalar_type()), s.codec->height,
           s.codec->width);
  const at::Tensor host = frames.to(at::kCPU).contiguous();
  const int stride = s.codec->width * 3;
  for (int64_t t = 0; t < host.size(0); ++t) {
    const uint8_t* planes[4] = {host.data_ptr<uint8_t>() + t * stride * s.codec->height, nullptr, nullptr,
                                nullptr};
    const int strides[4] = {stride, 0, 0, 0};
    s.check(av_frame_make_writable(s.frame.get()), "allocating a frame");
    sws_scale(s.scale.get(), planes, strides, 0, s.codec->height, s.frame->data, s.frame->linesize);
    s.frame->pts = s.tick++;
    s.encode(s.frame.get());
  }
}

void VideoWriter::hold(int64_t ticks) {
  state_->tick += ticks;
}

void VideoWriter::finish() {
  State& s = *state_;
  VALIDATE(s.tick > 0, "{}: a video of zero frames was asked for: give at least one", s.path.string());
  s.encode(nullptr);
  s.check(av_write_trailer(s.output.get()), "writing the index");
  s.check(avio_closep(&s.output->pb), "closing");
  s.output.reset();
  commit_file(s.temporary, s.path);
  s.committed = true;
}

std::string write_mp4(const std::filesystem::path& path, const at::Tensor& frames, const WriteSpec& spec) {
  VALIDATE(frames.dim() == 4 && frames.size(0) > 0,
           "{}: frames have shape {}: expected uint8 [T, H, W, 3], T > 0", path.string(),
           fmt::join(frames.sizes(), "x"));
  VideoWriter writer(path, frames.size(1), frames.size(2), spec);
  writer.add(frames);
  writer.finish();
  return writer.encoder();
}

}  // namespace surgery
