#include <cstdarg>
#include <cstdint>
#include <mutex>
#include <new>

#include "data/libav.h"

namespace surgery::libav {

namespace {
thread_local std::string last_line;

void keep_message(void* context, int level, const char* format, va_list arguments) {
  if (level > AV_LOG_ERROR) return;
  char line[512];
  int prefix = 1;
  av_log_format_line2(context, level, format, arguments, line, sizeof line, &prefix);
  last_line = line;
  // "[mov @ 0x55...]": an address means nothing to the reader and makes equal runs differ
  if (const size_t at = last_line.find(" @ 0x"); at != std::string::npos)
    if (const size_t end = last_line.find(']', at); end != std::string::npos) last_line.erase(at, end - at);
  while (!last_line.empty() && last_line.back() == '\n') last_line.pop_back();
}
}  // namespace

void capture_messages() {
  static std::once_flag once;
  std::call_once(once, [] { av_log_set_callback(keep_message); });
}

void clear_message() {
  last_line.clear();
}

std::string describe(int code) {
  std::string text;
  if (code < 0) {
    char buffer[AV_ERROR_MAX_STRING_SIZE] = {};
    av_strerror(code, buffer, sizeof buffer);
    text = buffer;
  }
  if (!last_line.empty()) text += text.empty() ? last_line : "; " + last_line;
  return text.empty() ? "no message from libav" : text;
}

FramePtr new_frame() {
  FramePtr frame(av_frame_alloc());
  if (!frame) throw std::bad_alloc();
  return frame;
}

PacketPtr new_packet() {
  PacketPtr packet(av_packet_alloc());
  if (!packet) throw std::bad_alloc();
  return packet;
}

// Where a stream's display matrix lives moved between libav versions; this is the only place that knows.
namespace {
#if LIBAVFORMAT_VERSION_MAJOR >= 61
const int32_t* display_matrix(const AVStream* stream) {
  const AVPacketSideData* side = av_packet_side_data_get(
      stream->codecpar->coded_side_data, stream->codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
  return side && side->size >= 9 * sizeof(int32_t) ? reinterpret_cast<const int32_t*>(side->data) : nullptr;
}
int32_t* new_display_matrix(AVStream* stream) {
  AVPacketSideData* side =
      av_packet_side_data_new(&stream->codecpar->coded_side_data, &stream->codecpar->nb_coded_side_data,
                              AV_PKT_DATA_DISPLAYMATRIX, 9 * sizeof(int32_t), 0);
  return side ? reinterpret_cast<int32_t*>(side->data) : nullptr;
}
#else
const int32_t* display_matrix(const AVStream* stream) {
  for (int i = 0; i < stream->nb_side_data; ++i)
    if (stream->side_data[i].type == AV_PKT_DATA_DISPLAYMATRIX &&
        stream->side_data[i].size >= 9 * sizeof(int32_t))
      return reinterpret_cast<const int32_t*>(stream->side_data[i].data);
  return nullptr;
}
int32_t* new_display_matrix(AVStream* stream) {
  return reinterpret_cast<int32_t*>(
      av_stream_new_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, 9 * sizeof(int32_t)));
}
#endif
}  // namespace

Orientation orientation_of_stream(const AVStream* stream) {
  const int32_t* m = display_matrix(stream);
  return m ? orientation_of(m[0], m[1], m[3], m[4]) : Orientation{};
}

void note_rotation(AVStream* stream, int clockwise_degrees) {
  int32_t* matrix = new_display_matrix(stream);
  if (!matrix) throw std::bad_alloc();
  av_display_rotation_set(
      matrix, clockwise_degrees);  // sets the clockwise angle; only its getter counts the other way
}

}  // namespace surgery::libav
