extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/avutil.h>
#include <libswscale/swscale.h>
}

#include "data/version.h"

namespace surgery {
namespace {
std::string text(unsigned version) {
  return fmt::format("{}.{}.{}", AV_VERSION_MAJOR(version), AV_VERSION_MINOR(version),
                     AV_VERSION_MICRO(version));
}
}  // namespace

std::vector<LibraryVersion> libav_versions() {
  return {{"libavformat", text(LIBAVFORMAT_VERSION_INT), text(avformat_version())},
          {"libavcodec", text(LIBAVCODEC_VERSION_INT), text(avcodec_version())},
          {"libavutil", text(LIBAVUTIL_VERSION_INT), text(avutil_version())},
          {"libswscale", text(LIBSWSCALE_VERSION_INT), text(swscale_version())}};
}

}  // namespace surgery
