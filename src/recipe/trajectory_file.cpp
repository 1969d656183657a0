#include "recipe/trajectory_file.h"

#include "base/errors.h"
#include "storage/hdf5_file.h"

namespace surgery {
namespace {
constexpr const char* kFormat = "surgery-trajectory";
constexpr int kVersion = 1;
}  // namespace

void write_trajectory(const std::filesystem::path& path, const Trajectory& trajectory) {
  Hdf5Writer file(path, kFormat, kVersion);
  file.attribute("fingerprint", trajectory.fingerprint);
  file.text("prompt", trajectory.prompt);
  file.dataset("latents", trajectory.latents);
  file.dataset("final_latents", trajectory.final_latents);
  file.dataset("timesteps", trajectory.timesteps);
  file.dataset("text", trajectory.text);
  file.dataset("negative_text", trajectory.negative_text);
  file.commit();
}

Trajectory read_trajectory(const std::filesystem::path& path) {
  const Hdf5Reader file(path, kFormat, kVersion);
  Trajectory t;
  t.fingerprint = file.attribute_text("fingerprint");
  t.prompt = file.text("prompt");
  t.latents = file.dataset("latents");
  t.final_latents = file.dataset("final_latents");
  t.timesteps = file.dataset("timesteps");
  t.text = file.dataset("text");
  t.negative_text = file.dataset("negative_text");
  VALIDATE(t.latents.dim() == 5 && t.timesteps.dim() == 1 && t.latents.size(0) == t.timesteps.size(0) &&
               t.text.dim() == 2 && t.negative_text.dim() == 2,
           "{}: datasets have the wrong shapes (not a trajectory of this program): remove it", path.string());
  return t;
}

std::string trajectory_fingerprint(const std::filesystem::path& path) {
  return Hdf5Reader(path, kFormat, kVersion).attribute_text("fingerprint");
}

}  // namespace surgery
