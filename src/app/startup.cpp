#include "app/startup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <sched.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/cuda.h>
#include <torch/version.h>
#include <unistd.h>

#include <boost/version.hpp>
#include <cstdlib>

#include "app/build_info.h"
#include "base/host_memory.h"
#include "base/log.h"
#include "data/version.h"

namespace surgery {
namespace {
using Json = nlohmann::ordered_json;

/// LibTorch tells its version at run time as bytes major, minor, patch from the top of 64 bits.
LibraryVersion torch_version() {
  const uint64_t abi = aoti_torch_abi_version();
  return {"LibTorch", TORCH_VERSION,
          fmt::format("{}.{}.{}", abi >> 56, (abi >> 48) & 255, (abi >> 40) & 255)};
}

std::vector<LibraryVersion> library_versions() {
  std::string boost = BOOST_LIB_VERSION;
  std::replace(boost.begin(), boost.end(), '_', '.');
  std::vector<LibraryVersion> all{
      torch_version(),
      {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100), ""},
      {"Boost", boost, ""},
      {"nlohmann-json",
       fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                   NLOHMANN_JSON_VERSION_PATCH),
       ""},
      {"SentencePiece", build_info.sentencepiece, ""},
      hdf5_version(),
      xxhash_version()};
  for (LibraryVersion& version : libav_versions()) all.push_back(std::move(version));
  return all;
}

/// Cores this process may run on (a launcher's binding included), ascending; none where the system does not
/// tell.
std::vector<int> affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

/// "0-3,8".
std::string ranges_text(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += fmt::format("{}{}{}", text.empty() ? "" : ",", numbers[i],
                        last > i ? fmt::format("-{}", numbers[last]) : "");
    i = last + 1;
  }
  return text;
}

int64_t usable_cores() {
  const auto cores = std::ssize(affinity());
  return cores > 0 ? cores : sysconf(_SC_NPROCESSORS_ONLN);
}

int64_t cuda_devices() {
  return torch::cuda::is_available() ? static_cast<int64_t>(torch::cuda::device_count()) : 0;
}

}  // namespace

void set_threads(const Session& session, int64_t configured) {
  if (configured == 0 && std::getenv("OMP_NUM_THREADS")) return;
  const int64_t cores = usable_cores(), of_host = sysconf(_SC_NPROCESSORS_ONLN);
  // A launcher that binds leaves each rank its own cores; else the ranks of a host share all of them.
  const int64_t share = cores < of_host ? cores : cores / session.local_size();
  at::set_num_threads(narrow<int>(configured > 0 ? configured : std::max<int64_t>(1, share)));
}

void forbid_tf32() {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
}

std::string version_line() {
  return fmt::format("surgery {} ({})", build_info.version, build_info.commit);
}

Json describe_build() {
  Json json{{"version", build_info.version},
            {"commit", build_info.commit},
            {"compiler", build_info.compiler},
            {"build_type", build_info.build_type},
            {"flags", build_info.flags},
            {"torch_folder", build_info.torch_folder},
            {"tf32", at::globalContext().allowTF32CuDNN() || at::globalContext().allowTF32CuBLAS()},
            {"libraries", Json::array()}};
  for (const LibraryVersion& version : library_versions())
    json["libraries"].push_back(
        {{"name", version.name}, {"header", version.header}, {"runtime", version.runtime}});
  return json;
}

Json describe_ranks(Session& session) {
  const Json mine{{"rank", session.rank()},
                  {"host", session.host()},
                  {"local_rank", session.local_rank()},
                  {"cores", usable_cores()},
                  {"affinity", ranges_text(affinity())},
                  {"memory_bytes", static_cast<int64_t>(host_memory())},
                  {"threads", at::get_num_threads()},
                  {"cuda_devices", cuda_devices()}};
  Json all = Json::array();
  for (const std::string& text : session.world().gather_text(mine.dump())) all.push_back(Json::parse(text));
  return all;
}

void print_startup(Context& context) {
  const Json build = describe_build();
  log_info("{}, {}, {} build", version_line(), build_info.compiler, build_info.build_type);
  std::string libraries;
  for (const Json& library : build["libraries"])
    libraries +=
        fmt::format("{}{} {}", libraries.empty() ? "" : ", ", library["name"].get<std::string>(),
                    library["runtime"].get<std::string>().empty() ? library["header"].get<std::string>()
                                                                  : library["runtime"].get<std::string>());
  log_info("{}; {}", libraries, context.session.library());
  for (const Json& rank : describe_ranks(context.session))
    log_info("rank {:>4}  {}  cores {} ({})  threads {}  memory {:.1f} GiB  CUDA devices {}",
             rank["rank"].get<int>(), rank["host"].get<std::string>(), rank["cores"].get<int>(),
             rank["affinity"].get<std::string>(), rank["threads"].get<int>(),
             rank["memory_bytes"].get<double>() / (1 << 30), rank["cuda_devices"].get<int>());
  log_info("configuration {}:\n{}", context.config_hash, context.config_text);
}

}  // namespace surgery
