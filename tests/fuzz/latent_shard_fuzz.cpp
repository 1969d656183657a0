#include <algorithm>
#include <fstream>

#include "data/latent_shard.h"
#include "fuzz.h"
#include "hdf5_content.h"

namespace {

using namespace surgery;

const char* const kPath = "shard.h5";

at::Tensor whole_numbers(FuzzedDataProvider& input, const std::vector<int64_t>& shape) {
  return at::full(shape, input.ConsumeIntegral<int8_t>(), at::kFloat);
}

/// Writes a shard of up to three samples as encoding does, with all checksums.
std::vector<LatentSample> write_shard(FuzzedDataProvider& input) {
  ShardHeader header;
  const auto channels = input.ConsumeIntegralInRange<int64_t>(1, 3);
  header.space = {.vae_hash = "a",
                  .text_hash = "b",
                  .latents_mean = std::vector<double>(static_cast<size_t>(channels), 0.5),
                  .latents_std = std::vector<double>(static_cast<size_t>(channels), 2),
                  .text_length = 4,
                  .text_dim = input.ConsumeIntegralInRange<int64_t>(1, 3)};
  const std::vector<int64_t> shape{channels, 1, 2, input.ConsumeIntegralInRange<int64_t>(1, 3)};
  std::vector<LatentSample> samples(input.ConsumeIntegralInRange<size_t>(0, 3));
  LatentShardWriter writer(kPath, header);
  for (LatentSample& sample : samples) {
    sample.latents = whole_numbers(input, shape);
    sample.text = whole_numbers(input, {input.ConsumeIntegralInRange<int64_t>(1, 4), header.space.text_dim});
    sample.prompt = input.ConsumeRandomLengthString(8);
    sample.id = input.ConsumeRandomLengthString(8);
    sample.source_fps = input.ConsumeIntegral<uint8_t>();
    sample.source_height = sample.source_width = input.ConsumeIntegral<uint8_t>();
    sample.crop = {1, 2, 3, input.ConsumeIntegral<int32_t>()};
    writer.add(sample);
  }
  writer.commit();
  return samples;
}

void alter(Hdf5Content::Attribute& attribute, FuzzedDataProvider& input) {
  const bool other_kind = input.ConsumeBool();
  attribute =
      odd_attribute(input, other_kind ? input.ConsumeIntegralInRange<size_t>(0, 2) : attribute.index());
}

void alter(at::Tensor& tensor, FuzzedDataProvider& input) {
  if (input.ConsumeBool() || tensor.nbytes() == 0) {
    tensor = odd_tensor(input, tensor.scalar_type(), tensor.sizes().vec());
  } else {
    const auto place = input.ConsumeIntegralInRange<size_t>(0, tensor.nbytes() - 1);
    static_cast<uint8_t*>(tensor.data_ptr())[place] = input.ConsumeIntegral<uint8_t>();
  }
}

/// Leaves out or changes one attribute or dataset.
void alter_one(Hdf5Content& content, FuzzedDataProvider& input) {
  const auto change = [&](auto& parts) {
    if (parts.empty()) return;
    const auto part =
        std::next(parts.begin(), input.ConsumeIntegralInRange<int>(0, static_cast<int>(parts.size()) - 1));
    if (input.ConsumeIntegralInRange<int>(0, 7) == 1)
      parts.erase(part);
    else
      alter(part->second, input);
  };
  if (input.ConsumeBool())
    change(content.datasets);
  else
    change(content.attributes);
}

/// All that a reader of a shard asks for.
std::vector<LatentSample> read_shard() {
  const LatentShard shard(kPath);
  std::vector<LatentSample> samples;
  for (int64_t i = 0; i < shard.size(); ++i) {
    samples.push_back(shard.sample(i));
    require(samples.back().latents.sizes().vec() == shard.latent_shape());
    require(samples.back().text.dim() == 2 && samples.back().text.size(1) == shard.header().space.text_dim);
  }
  return samples;
}

bool equal(const LatentSample& a, const LatentSample& b) {
  return same(a.latents, b.latents) && same(a.text, b.text) && a.prompt == b.prompt && a.id == b.id &&
         a.source_fps == b.source_fps && a.start_seconds == b.start_seconds &&
         a.source_height == b.source_height && a.source_width == b.source_width && a.crop == b.crop;
}

}  // namespace

/// Writes an input to start from, a shard of samples, to $SURGERY_FUZZ_SEEDS.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const std::string whole(100, '\2');
  FuzzedDataProvider input(reinterpret_cast<const uint8_t*>(whole.data()), whole.size());
  require(write_shard(input).size() == 2 && read_shard().size() == 2);
  if (const char* seeds = std::getenv("SURGERY_FUZZ_SEEDS")) {
    std::filesystem::create_directories(seeds);
    std::ofstream(std::filesystem::path(seeds) / "whole") << whole;
  }
  return 0;
}

/// The content of a shard: one that encoding wrote is read as it was written; one that was changed is read or
/// refused. Without files: those are hdf5_fuzz.cpp's.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return fuzz(data, size, [&](std::span<const std::byte>) {
    FuzzedDataProvider input(data, size);
    const std::vector<LatentSample> written = write_shard(input);
    const auto changes = input.ConsumeIntegralInRange<int>(0, 7);
    for (int i = 0; i < changes; ++i) alter_one(hdf5_files()[kPath], input);
    std::vector<LatentSample> read;
    try {
      read = read_shard();
    } catch (const Error&) {
      require(changes > 0);
      throw;
    }
    require(changes > 0 || std::ranges::equal(read, written, equal));
  });
}
