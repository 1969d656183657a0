#include <fuzzer/FuzzedDataProvider.h>

#include <filesystem>
#include <fstream>

#include "data/latent_shard.h"
#include "memory_file.h"
#include "storage/hdf5_file.h"

namespace {

using namespace surgery;

constexpr int64_t kSamples = 2, kChannels = 3, kRows = 3, kTextDim = 2;

/// One attribute or dataset of a shard that is as it should be.
struct Part {
  const char* name;
  at::Tensor tensor;  ///< a dataset
  int64_t integer = 0;
  double real = 0;
  std::string text;
  enum class Kind { integer, real, text, dataset } kind;
};

Part integer(const char* name, int64_t value) {
  return {name, {}, value, 0, "", Part::Kind::integer};
}
Part text(const char* name, const std::string& value) {
  return {name, {}, 0, 0, value, Part::Kind::text};
}
Part dataset(const char* name, const at::Tensor& value) {
  return {name, value, 0, 0, "", Part::Kind::dataset};
}

const std::vector<Part>& parts() {
  static const std::vector<Part> all{
      integer("latent_normalized", 1),
      integer("samples", kSamples),
      {"fps", {}, 0, 16, "", Part::Kind::real},
      integer("num_frames", 1),
      integer("height", 16),
      integer("width", 16),
      integer("text_len", 4),
      integer("text_dim", kTextDim),
      text("vae_hash", "a"),
      text("text_hash", "b"),
      text("source", "c"),
      text("fingerprint", "d"),
      dataset("latent_mean", at::zeros({kChannels}, at::kDouble)),
      dataset("latent_std", at::ones({kChannels}, at::kDouble)),
      dataset("latents", at::ones({kSamples, kChannels, 1, 2, 2}, at::kBFloat16)),
      dataset("text/data", at::ones({kRows, kTextDim}, at::kBFloat16)),
      dataset("text/offsets", at::tensor({0, 1, 3}, at::kLong)),
      dataset("prompt/bytes", at::full({4}, 65, at::kByte)),
      dataset("prompt/offsets", at::tensor({0, 2, 4}, at::kLong)),
      dataset("meta/id/bytes", at::full({2}, 66, at::kByte)),
      dataset("meta/id/offsets", at::tensor({0, 1, 2}, at::kLong)),
      dataset("meta/src_fps", at::full({kSamples}, 16.0, at::kDouble)),
      dataset("meta/start_s", at::zeros({kSamples}, at::kDouble)),
      dataset("meta/src_size", at::full({kSamples, 2}, 16, at::kInt)),
      dataset("meta/crop", at::zeros({kSamples, 4}, at::kInt)),
      dataset("meta/xxh128", at::zeros({kSamples, 2, 16}, at::kByte))};
  return all;
}

int64_t odd_integer(FuzzedDataProvider& input) {
  return input.PickValueInArray<int64_t>(
      {-1, 0, 1, 2, 3, 5, 1 << 20, INT64_MAX, INT64_MIN, input.ConsumeIntegral<int64_t>()});
}

at::Tensor odd_tensor(FuzzedDataProvider& input, const at::Tensor& good) {
  auto dtype = good.scalar_type();
  if (input.ConsumeBool())
    dtype = input.PickValueInArray({at::kDouble, at::kFloat, at::kBFloat16, at::kLong, at::kInt, at::kByte});
  std::vector<int64_t> shape = good.sizes().vec();
  if (input.ConsumeBool()) {
    shape.resize(input.ConsumeIntegralInRange<size_t>(0, 6));
    for (int64_t& size : shape) size = input.ConsumeIntegralInRange<int64_t>(0, 4);
  }
  at::Tensor tensor = at::empty(shape, dtype);
  auto bytes = input.ConsumeBytes<uint8_t>(tensor.nbytes());
  bytes.resize(tensor.nbytes());
  if (!bytes.empty()) std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

void write_part(Hdf5Writer& file, const Part& part, FuzzedDataProvider& input) {
  enum { as_it_is, left_out, other_value, other_kind };
  const int change = input.ConsumeIntegralInRange<int>(0, 15);
  if (change == left_out) return;
  Part::Kind kind = part.kind;
  if (change == other_kind && kind != Part::Kind::dataset)
    kind = static_cast<Part::Kind>(input.ConsumeIntegralInRange<int>(0, 2));
  const bool other = change == other_value || change == other_kind;
  if (kind == Part::Kind::integer) file.attribute(part.name, other ? odd_integer(input) : part.integer);
  if (kind == Part::Kind::real)
    file.attribute(part.name, other ? input.ConsumeFloatingPoint<double>() : part.real);
  if (kind == Part::Kind::text)
    file.attribute(part.name, other ? input.ConsumeRandomLengthString(20) : part.text);
  if (kind == Part::Kind::dataset)
    file.dataset(part.name, other ? odd_tensor(input, part.tensor) : part.tensor);
}

/// A file that is whole, with a valid checksum, and holds what the input chooses. False for what the writer
/// refuses (text with a NUL, ...).
bool write_chosen(const std::filesystem::path& path, const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  try {
    Hdf5Writer file(path, "surgery-latents", 1);
    for (const Part& part : parts()) write_part(file, part, input);
    file.commit();
    return true;
  } catch (const Error& error) {
    require(error.code() == ExitCode::data || error.code() == ExitCode::internal);
    return false;
  }
}

/// All that a reader of a shard asks for.
void read_shard(const std::filesystem::path& path) {
  const LatentShard shard(path);
  for (int64_t i = 0; i < shard.size(); ++i) {
    const LatentSample sample = shard.sample(i);
    require(sample.latents.sizes().vec() == shard.latent_shape());
    require(sample.text.dim() == 2 && sample.text.size(1) == shard.header().space.text_dim);
  }
}

/// A folder in memory, removed at the end.
const std::filesystem::path& scratch() {
  struct Folder {
    Folder() {
      char name[] = "/dev/shm/surgery-fuzz-XXXXXX";
      require(mkdtemp(name) != nullptr);
      path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::filesystem::path path;
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace

/// Writes the inputs to start from, one a kind of input, to $SURGERY_FUZZ_SEEDS.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const char* seeds = std::getenv("SURGERY_FUZZ_SEEDS")) {
    std::filesystem::create_directories(seeds);
    const auto whole = scratch() / "whole.h5";
    require(write_chosen(whole, nullptr, 0));
    std::ifstream file(whole, std::ios::binary);
    std::ofstream(std::filesystem::path(seeds) / "whole", std::ios::binary) << '\0' << file.rdbuf();
    std::ofstream(std::filesystem::path(seeds) / "chosen") << std::string(64, '\1');
  }
  return 0;
}

/// The header of a latent shard. After a 0: the file's bytes; after anything else: what a whole file holds.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if (data[0] == 0) {
    const MemoryFile file(data + 1, size - 1);
    return fuzz(data, size, [&](std::span<const std::byte>) { read_shard(file.path()); });
  }
  const auto path = scratch() / "chosen.h5";
  if (!write_chosen(path, data + 1, size - 1)) return 0;
  return fuzz(data, size, [&](std::span<const std::byte>) { read_shard(path); });
}
