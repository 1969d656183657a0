#include <hdf5.h>

#include <fstream>

#include "base/errors.h"
#include "hdf5_content.h"
#include "memory_file.h"
#include "scratch.h"
#include "storage/hdf5_file.h"

namespace {

using namespace surgery;

constexpr const char* kFormat = "surgery-latents";

/// Up to four attributes and four datasets, in groups or not.
Hdf5Content choose_content(FuzzedDataProvider& input) {
  Hdf5Content content;
  for (auto left = input.ConsumeIntegralInRange<int>(0, 4); left > 0; --left)
    content.attributes[input.PickValueInArray({"a", "samples", "fps", "h\xC3\xB6he"})] =
        odd_attribute(input, input.ConsumeIntegralInRange<size_t>(0, 2));
  for (auto left = input.ConsumeIntegralInRange<int>(0, 4); left > 0; --left)
    content.datasets[input.PickValueInArray({"d", "text/data", "text/offsets", "meta/id/bytes"})] =
        odd_tensor(input, at::kByte, {left});
  return content;
}

void write_content(const Hdf5Content& content, const std::filesystem::path& path) {
  Hdf5Writer file(path, kFormat, 1);
  for (const auto& [name, value] : content.attributes)
    std::visit([&, &key = name](const auto& one) { file.attribute(key, one); }, value);
  for (const auto& [name, tensor] : content.datasets) file.dataset(name, tensor);
  file.commit();
}

Hdf5Content::Attribute read_attribute(const Hdf5Reader& file, const std::string& name, size_t kind) {
  if (kind == 0) return file.attribute_int(name);
  if (kind == 1) return file.attribute_double(name);
  return file.attribute_text(name);
}

template <class Read>
void require_refusal(Read read) {
  try {
    read();
  } catch (const Error& error) {
    return require(error.code() == ExitCode::data);
  }
  require(false);
}

/// What was written comes back; what was not is refused.
void compare(const Hdf5Content& content, const Hdf5Reader& file) {
  require(file.attributes().size() == content.attributes.size() + 2);  // format and its version
  for (const auto& [name, value] : content.attributes) {
    const bool nan = value.index() == 1 && std::get<double>(value) != std::get<double>(value);
    for (const size_t kind : {0, 1, 2}) {
      if (kind == value.index())
        require(nan || read_attribute(file, name, kind) == value);
      else
        require_refusal([&, &key = name] { read_attribute(file, key, kind); });
    }
  }
  require(file.datasets().size() == content.datasets.size());
  for (const auto& [name, tensor] : content.datasets) {
    require(file.has(name) && file.shape(name) == tensor.sizes().vec() && same(file.dataset(name), tensor));
    const int64_t rows = tensor.dim() == 0 ? 0 : tensor.size(0);
    if (rows > 0) {
      require(same(file.rows(name, rows - 1, 1), tensor.slice(0, rows - 1).contiguous()));
      require_refusal([&, &key = name] { file.rows(key, 1, rows); });
    }
    if (tensor.scalar_type() != at::kByte) require_refusal([&, &key = name] { file.text(key); });
  }
  require(!file.has("text"));
  require_refusal([&] { file.dataset("text"); });
}

/// All that a file can be asked for.
void read_all(const std::filesystem::path& path) {
  const Hdf5Reader file(path, kFormat, 1);
  require(hdf5_format(path) == std::pair(std::string(kFormat), int64_t{1}));
  require(file.attributes().size() >= 2);
  for (const std::string& name : file.datasets()) {
    require(file.has(name));
    const at::Tensor tensor = file.dataset(name);
    require(tensor.sizes().vec() == file.shape(name));
    if (tensor.dim() > 0 && tensor.size(0) > 0) require(file.rows(name, tensor.size(0) - 1, 1).size(0) == 1);
    if (tensor.scalar_type() == at::kByte) require(file.text(name).size() == tensor.nbytes());
  }
}

}  // namespace

/// Writes the inputs to start from, one a kind of input, to $SURGERY_FUZZ_SEEDS.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // The library returns half a megabyte with every file that it closes; new pages for the next took most of
  // the time.
  require(H5set_free_list_limits(-1, -1, -1, -1, -1, -1) >= 0);
  const std::string chosen(100, '\3');
  FuzzedDataProvider input(reinterpret_cast<const uint8_t*>(chosen.data()), chosen.size());
  const auto path = scratch() / "whole.h5";
  write_content(choose_content(input), path);
  read_all(path);
  if (const char* seeds = std::getenv("SURGERY_FUZZ_SEEDS")) {
    std::filesystem::create_directories(seeds);
    std::ifstream file(path, std::ios::binary);
    std::ofstream(std::filesystem::path(seeds) / "whole", std::ios::binary) << '\0' << file.rdbuf();
    std::ofstream(std::filesystem::path(seeds) / "chosen") << chosen;
  }
  return 0;
}

/// A file of HDF5. After a 0: its bytes; after anything else: what a whole file holds, with valid checksums.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if (data[0] == 0) {
    const MemoryFile file(data + 1, size - 1);
    return fuzz(data, size, [&](std::span<const std::byte>) { read_all(file.path()); });
  }
  FuzzedDataProvider input(data + 1, size - 1);
  const Hdf5Content content = choose_content(input);
  const auto path = scratch() / "chosen.h5";
  write_content(content, path);
  compare(content, Hdf5Reader(path, kFormat, 1));
  return 0;
}
