#include "data/version.h"

namespace surgery {

std::vector<LibraryVersion> libav_versions() {
  return {};
}

}  // namespace surgery
