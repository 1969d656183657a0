#include "recipe/run_directory.h"

#include "base/errors.h"

namespace surgery {

std::filesystem::path RunDirectory::in_base(const std::filesystem::path& path) const {
  const auto inside = path.lexically_relative(root_);
  if (base_.empty() || inside.empty() || *inside.begin() == "..") return {};
  return base_ / inside;
}

void RunDirectory::check_base() const {
  std::error_code error;
  if (base_.empty() ||
      (std::filesystem::is_directory(base_) && !std::filesystem::equivalent(base_, root_, error)))
    return;
  fail_usage("run.base={}: {}: name the folder of another run", base_.string(),
             std::filesystem::exists(base_) ? "is this run itself, or no folder" : "does not exist");
}

void RunDirectory::check_not_stopped() const {
  if (std::filesystem::exists(stop_file()))
    fail_usage("{}: is there (this run was asked to stop, and to stay so): remove it to go on",
               stop_file().string());
}

std::filesystem::path RunDirectory::trajectory(int64_t prompt) const {
  return cache() / fmt::format("trajectory-{:06d}.h5", prompt);
}

std::filesystem::path RunDirectory::events(int rank) const {
  return events() / fmt::format("rank-{:04d}.jsonl", rank);
}

std::filesystem::path RunDirectory::block(int64_t block) const {
  return distill() / fmt::format("block-{:02d}.h5", block);
}

}  // namespace surgery
