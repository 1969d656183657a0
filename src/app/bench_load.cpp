#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "app/bench.h"
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

/// The whole file into memory of its own: a page costs as much at its first touch as a page of the weights,
/// seconds for a gigabyte where a virtual machine is given its memory then.
void read_bytes(const fs::path& path) {
  const OpenFile file(path);
  const at::Tensor memory = new_memory({static_cast<int64_t>(fs::file_size(path))}, at::kByte);
  auto* to = static_cast<std::byte*>(memory.mutable_data_ptr());
  int64_t left = memory.numel();
  while (left > 0) {
    const ssize_t got = ::read(file.descriptor(), to, static_cast<size_t>(std::min<int64_t>(left, 8 << 20)));
    if (got <= 0) fail_io("{}: cannot be read", path.string());
    to += got;
    left -= got;
  }
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

Load load(const fs::path& folder, at::ScalarType dtype) {
  const double before = anonymous_bytes();
  const auto start = std::chrono::steady_clock::now();
  Transformer transformer = Transformer::load(folder);
  transformer.to(at::kCPU, dtype);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  return {spent.count(), anonymous_bytes() - before};
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
  std::vector<double> plain, seconds[2];
  double memory[2] = {};
  for (int64_t round = 0; round < options.repetitions; ++round) {
    make_cold(file);
    const auto start = std::chrono::steady_clock::now();
    read_bytes(file);
    plain.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    for (const int i : {0, 1}) {
      make_cold(file);
      const Load loaded = load(folder, i == 0 ? at::kFloat : at::kBFloat16);
      seconds[i].push_back(loaded.seconds);
      memory[i] = std::max(memory[i], loaded.memory / (i == 0 ? bytes : bytes / 2));
    }
  }
  const auto row = [&](const char* name, int i, double goal) {
    return BenchRow{.name = name,
                    .seconds = median(seconds[i]),
                    .peer = "reading its bytes into memory",
                    .peer_seconds = median(plain),
                    .goal = goal,
                    .note = fmt::format("anonymous memory {:.2f} of the weights' bytes", memory[i])};
  };
  return {fmt::format("loading a transformer of {:.2f} GB, fp32, from a cold file in {}; medians of {}",
                      bytes / 1e9, options.folder.string(), options.repetitions),
          {row("in its own dtype", 0, 1 / 1.2), row("converted to bf16", 1, 1 / 2.0)}};
}

}  // namespace surgery
