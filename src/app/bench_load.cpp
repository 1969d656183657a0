#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "app/bench.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/random.h"
#include "base/statistics.h"
#include "storage/tensor_store.h"
#include "wan/initial_weights.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

class OpenFile {
 public:
  explicit OpenFile(const fs::path& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail_io("{}: cannot be read", path.string());
  }
  ~OpenFile() { ::close(descriptor_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

/// The next reader finds nothing of the file in memory.
void make_cold(const fs::path& path) {
  const OpenFile file(path);
  if (::fdatasync(file.descriptor()) != 0 ||
      ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED) != 0)
    fail_io("{}: cannot be dropped from memory", path.string());
}

/// Bytes of this process that are no file's.
double anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  double kibibytes = 0;
  for (std::string word; status >> word;)
    if (word == "RssAnon:") status >> kibibytes;
  return 1024 * kibibytes;
}

struct Load {
  double seconds = 0, memory = 0;  ///< memory: anonymous bytes of what was loaded
};

Load since(double start, double anonymous_before) {
  const double spent = steady_seconds() - start;
  return {spent, anonymous_bytes() - anonymous_before};
}

/// The whole file, piece by piece: into one piece of memory again and again, or into memory for all of it.
/// There a page costs as much at its first touch as a page of the weights, seconds for a gigabyte where a
/// virtual machine is given its memory then.
Load read_bytes(const fs::path& path, bool keep) {
  constexpr int64_t kPiece = 8 << 20;
  const double before = anonymous_bytes();
  const double start = steady_seconds();
  const OpenFile file(path);
  const auto bytes = static_cast<int64_t>(fs::file_size(path));
  const at::Tensor memory = new_memory({keep ? bytes : kPiece}, at::kByte);
  for (int64_t done = 0; done < bytes;) {
    const ssize_t got = ::read(file.descriptor(), memory.mutable_data_ptr<uint8_t>() + (keep ? done : 0),
                               static_cast<size_t>(std::min(bytes - done, kPiece)));
    if (got <= 0) fail_io("{}: cannot be read", path.string());
    done += got;
  }
  return since(start, before);
}

Load load(const fs::path& folder, at::ScalarType dtype) {
  const double before = anonymous_bytes();
  const double start = steady_seconds();
  Transformer transformer = Transformer::load(folder);
  transformer.to(at::kCPU, dtype);
  return since(start, before);
}

}  // namespace

BenchTable bench_load(const BenchOptions& options) {
  const fs::path folder = options.folder / fmt::format("surgery-bench-load-{}", ::getpid());
  const std::unique_ptr<const fs::path, void (*)(const fs::path*)> removed(&folder, [](const fs::path* made) {
    std::error_code ignored;
    fs::remove_all(*made, ignored);
  });
  save_transformer(options.transformer,
                   initial_transformer(options.transformer, RandomKey{2024, 4}, InitialHead::drawn), folder,
                   at::kFloat);
  const fs::path file = folder / "diffusion_pytorch_model.safetensors";
  const auto bytes = static_cast<double>(fs::file_size(file));
  enum : size_t { kOwn, kConverted, kRead, kReadAndKept };
  const std::function<Load()> measured[] = {
      [&] { return load(folder, at::kFloat); }, [&] { return load(folder, at::kBFloat16); },
      [&] { return read_bytes(file, false); }, [&] { return read_bytes(file, true); }};
  std::vector<double> seconds[std::size(measured)];
  double memory[std::size(measured)] = {};
  for (int64_t round = 0; round < options.repetitions; ++round) {
    for (size_t place = 0; place < std::size(measured); ++place) {
      const size_t i =
          (static_cast<size_t>(round) + place) % std::size(measured);  // not always the same first
      make_cold(file);
      ::malloc_trim(0);  // or what the one before has left would count as its own
      const Load done = measured[i]();
      seconds[i].push_back(done.seconds);
      memory[i] = std::max(memory[i], done.memory);
    }
  }
  const auto row = [&](const char* name, size_t i, double target_bytes, size_t peer, double goal) {
    return BenchRow{
        .name = name,
        .seconds = median(seconds[i]),
        .peer = peer == kRead ? "reading its bytes" : "reading its bytes into memory for all of them",
        .peer_seconds = median(seconds[peer]),
        .goal = goal,
        .note = fmt::format("anonymous memory {:.2f} of the weights' bytes", memory[i] / target_bytes)};
  };
  return {fmt::format("loading a transformer of {:.2f} GB, fp32, from a cold file in {}; medians of {}",
                      bytes / 1e9, options.folder.string(), options.repetitions),
          {row("in its own dtype", kOwn, bytes, kRead, 1 / 1.2),
           row("in its own dtype", kOwn, bytes, kReadAndKept, 1 / 1.2),
           row("converted to bf16", kConverted, bytes / 2, kRead, 1 / 2.0),
           row("converted to bf16", kConverted, bytes / 2, kReadAndKept, 1 / 2.0)}};
}

}  // namespace surgery
