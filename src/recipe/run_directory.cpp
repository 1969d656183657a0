#include "recipe/run_directory.h"

#include <fmt/format.h>

namespace surgery {

std::filesystem::path RunDirectory::trajectory(int64_t prompt) const {
  return cache() / fmt::format("trajectory-{:06d}.h5", prompt);
}

std::filesystem::path RunDirectory::block(int64_t block) const {
  return distill() / fmt::format("block-{:02d}.h5", block);
}

}  // namespace surgery
