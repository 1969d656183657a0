#include <fcntl.h>
#include <unistd.h>

#include "app/bench.h"
#include "base/errors.h"
#include "base/random.h"
#include "recipe/trajectory_file.h"

namespace surgery {
namespace {

void plain_write(const std::filesystem::path& path, const std::vector<char>& bytes) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) fail_io("{}: cannot be written", path.string());
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t now = ::write(file, bytes.data() + done, bytes.size() - done);
    if (now <= 0) fail_io("{}: cannot be written", path.string());
    done += static_cast<size_t>(now);
  }
  const bool failed = ::fsync(file) != 0;
  if (::close(file) != 0 || failed) fail_io("{}: cannot be flushed", path.string());
}

void plain_read(const std::filesystem::path& path, std::vector<char>& bytes) {
  const int file = ::open(path.c_str(), O_RDONLY);
  if (file < 0) fail_io("{}: cannot be read", path.string());
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t now = ::read(file, bytes.data() + done, bytes.size() - done);
    if (now <= 0) fail_io("{}: cannot be read", path.string());
    done += static_cast<size_t>(now);
  }
  ::close(file);
}

}  // namespace

BenchTable bench_cache(const BenchOptions& options) {
  const RandomKey key{2024, 3};
  Trajectory trajectory;
  trajectory.prompt = "a benchmark";
  trajectory.fingerprint = "bench";
  trajectory.latents =
      random_normal(key, {16, 21, 60, 104}).to(at::kBFloat16).expand({50, -1, -1, -1, -1}).contiguous();
  trajectory.final_latents = trajectory.latents[0].clone();
  trajectory.timesteps = at::linspace(1000, 20, 50, at::kDouble);
  trajectory.text = random_normal(key.with("text"), {40, 4096});
  trajectory.negative_text = random_normal(key.with("negative"), {126, 4096});

  const auto folder = options.folder / fmt::format("surgery-bench-{}", ::getpid());
  std::filesystem::create_directories(folder);
  const auto ours = folder / "trajectory.h5", plain = folder / "plain";
  write_trajectory(ours, trajectory);
  std::vector<char> bytes(std::filesystem::file_size(ours), 1);
  const auto seconds =
      interleaved_medians({[&] { write_trajectory(ours, trajectory); }, [&] { plain_write(plain, bytes); },
                           [&] { read_trajectory(ours); }, [&] { plain_read(plain, bytes); }},
                          options.repetitions);
  std::filesystem::remove_all(folder);
  const double megabytes = static_cast<double>(bytes.size()) / 1e6;
  const auto row = [&](const char* name, double mine, double peer) {
    return BenchRow{.name = name,
                    .seconds = mine,
                    .peer = "plain, same bytes",
                    .peer_seconds = peer,
                    .note = fmt::format("{:.0f} against {:.0f} MB/s", megabytes / mine, megabytes / peer)};
  };
  return {fmt::format("trajectory cache, {:.0f} MB in {}; medians of {}; reading finds the file in memory",
                      megabytes, options.folder.string(), options.repetitions),
          {row("write, checksums, fsync", seconds[0], seconds[1]),
           row("read, checksums", seconds[2], seconds[3])}};
}

}  // namespace surgery
