#pragma once
#include <vector>

#include "storage/version.h"

namespace surgery {

/// libav's libraries; empty when built without video.
std::vector<LibraryVersion> libav_versions();

}  // namespace surgery
