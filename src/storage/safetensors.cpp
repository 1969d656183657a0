#include "storage/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "storage/strict_json.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kHeaderLimit = 100'000'000;  // bytes; the reference reader's own limit
constexpr size_t kTensorLimit = 1'000'000, kNameLimit = 1024, kRankLimit = 16;
constexpr const char* kMetadata = "__metadata__";

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t bytes;
};
/// In the order in which the reference writer lays tensors out: widest first.
constexpr std::array<DTypeRow, 10> kDTypes{{{DType::i64, "I64", 8},
                                            {DType::f64, "F64", 8},
                                            {DType::f32, "F32", 4},
                                            {DType::i32, "I32", 4},
                                            {DType::bf16, "BF16", 2},
                                            {DType::f16, "F16", 2},
                                            {DType::i16, "I16", 2},
                                            {DType::i8, "I8", 1},
                                            {DType::u8, "U8", 1},
                                            {DType::boolean, "BOOL", 1}}};

size_t dtype_order(DType dtype) {
  const auto row = std::ranges::find(kDTypes, dtype, &DTypeRow::dtype);
  EXPECT(row != kDTypes.end());
  return static_cast<size_t>(row - kDTypes.begin());
}

/// Shape product times element size; Error{data} when it does not fit.
uint64_t byte_size(const std::vector<int64_t>& shape, int64_t element_bytes, const std::string& where) {
  uint64_t size = static_cast<uint64_t>(element_bytes);
  bool empty = false, overflow = false;
  for (const int64_t extent : shape) {
    VALIDATE(extent >= 0, "{}: negative extent {} (damaged file): write it again", where, extent);
    empty |= extent == 0;
    overflow |= __builtin_mul_overflow(size, static_cast<uint64_t>(extent), &size);
  }
  VALIDATE(empty || (!overflow && size <= static_cast<uint64_t>(INT64_MAX)),
           "{}: shape has more elements than can be counted (damaged or hostile file): check its source",
           where);
  return empty ? 0 : size;
}

uint64_t unsigned_number(const Json& value, const std::string& where) {
  VALIDATE(value.is_number_unsigned(), "{}: {} is not a whole number (damaged file): write it again", where,
           value.dump());
  return value.get<uint64_t>();
}

SafetensorsEntry parse_entry(const Json& value, const std::string& where) {
  VALIDATE(value.is_object() && value.contains("dtype") && value.contains("shape") &&
               value.contains("data_offsets") && value["dtype"].is_string() && value["shape"].is_array() &&
               value["data_offsets"].is_array() && value["data_offsets"].size() == 2,
           "{}: entry lacks dtype, shape or data_offsets (damaged file): write it again", where);
  SafetensorsEntry entry;
  const std::string& dtype = value["dtype"].get_ref<const std::string&>();
  const auto row = std::ranges::find_if(kDTypes, [&](const DTypeRow& known) { return dtype == known.name; });
  VALIDATE(row != kDTypes.end(), "{}: dtype {} is not read here: convert the file to F32, F16 or BF16", where,
           dtype);
  entry.dtype = row->dtype;
  VALIDATE(value["shape"].size() <= kRankLimit, "{}: {} axes, at most {} are read (damaged or hostile file)",
           where, value["shape"].size(), kRankLimit);
  for (const Json& extent : value["shape"]) {
    const uint64_t number = unsigned_number(extent, where);
    VALIDATE(number <= static_cast<uint64_t>(INT64_MAX), "{}: extent {} is too large (damaged file)", where,
             number);
    entry.shape.push_back(static_cast<int64_t>(number));
  }
  entry.begin = unsigned_number(value["data_offsets"][0], where);
  entry.end = unsigned_number(value["data_offsets"][1], where);
  const uint64_t size = byte_size(entry.shape, row->bytes, where);
  VALIDATE(entry.begin <= entry.end && entry.end - entry.begin == size,
           "{}: data_offsets [{}, {}] do not hold the {} bytes of its shape (damaged file): write it again",
           where, entry.begin, entry.end, size);
  return entry;
}

/// The tensors must cover the data section exactly: no gap, no overlap, nothing behind.
void check_layout(const std::map<std::string, SafetensorsEntry>& entries, uint64_t data_bytes,
                  const std::string& where) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, entry] : entries) ranges.emplace_back(entry.begin, entry.end);
  std::ranges::sort(ranges);
  uint64_t position = 0;
  for (const auto& [begin, end] : ranges) {
    VALIDATE(begin == position, "{}: gap or overlap at data byte {} (damaged file): write it again", where,
             begin);
    position = end;
  }
  VALIDATE(position == data_bytes,
           "{}: tensors take {} bytes but the file holds {} (truncated or with foreign bytes behind): copy "
           "it again",
           where, position, data_bytes);
}

}  // namespace

int64_t dtype_bytes(DType dtype) {
  return kDTypes[dtype_order(dtype)].bytes;
}
std::string dtype_name(DType dtype) {
  return kDTypes[dtype_order(dtype)].name;
}

struct SafetensorsFile::State {
  fs::path path;
  std::byte* mapping = nullptr;
  uint64_t size = 0, data_begin = 0;
  std::map<std::string, SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;

  ~State() {
    if (mapping != nullptr) ::munmap(mapping, size);
  }

  void map() {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail_io("{}: cannot be read: {}", path.string(), std::strerror(errno));
    struct stat before {
    }, after{};
    const bool known = ::fstat(descriptor, &before) == 0 && S_ISREG(before.st_mode);
    size = known ? static_cast<uint64_t>(before.st_size) : 0;
    // Writable but private: who changes a tensor in place changes a copy of its pages, never the file.
    void* address = known && size >= 8 ? ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_NORESERVE, descriptor, 0)
                                       : nullptr;
    const int error = address == MAP_FAILED ? errno : 0;
    const bool changed = known && (::fstat(descriptor, &after) != 0 || after.st_size != before.st_size);
    ::close(descriptor);
    if (error != 0) fail_io("{}: cannot be mapped: {}", path.string(), std::strerror(error));
    mapping = static_cast<std::byte*>(address);
    if (!known) fail_io("{}: is not a regular file: name a .safetensors file", path.string());
    if (changed) fail_io("{}: changed its size while it was opened: wait until it is written", path.string());
    VALIDATE(size >= 8, "{}: {} bytes are too few for a safetensors file (truncated): copy it again",
             path.string(), size);
  }

  void parse() {
    const std::string where = path.string();
    uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | std::to_integer<uint64_t>(mapping[i]);
    VALIDATE(
        header_bytes <= kHeaderLimit && header_bytes <= size - 8,
        "{}: header of {} bytes does not fit in the file's {} (truncated, or not safetensors): copy it again",
        where, header_bytes, size);
    data_begin = 8 + header_bytes;
    const std::string_view header(reinterpret_cast<const char*>(mapping + 8), header_bytes);
    VALIDATE(header.starts_with('{'), "{}: header does not begin with '{{' (not a safetensors file)", where);
    const size_t json_end = header.find_last_not_of(' ');
    VALIDATE(header[json_end] == '}', "{}: header ends in foreign bytes (damaged file): write it again",
             where);
    const Json json = parse_strict_json(header.substr(0, json_end + 1), where + ": header", 4);
    VALIDATE(json.size() <= kTensorLimit, "{}: {} tensors, at most {} are read (hostile file?)", where,
             json.size(), kTensorLimit);
    for (const auto& [name, value] : json.items()) {
      VALIDATE(name.size() <= kNameLimit, "{}: a tensor's name has {} bytes, at most {} are read", where,
               name.size(), kNameLimit);
      if (name == kMetadata) {
        VALIDATE(value.is_object(), "{}: __metadata__ is not an object (damaged file): write it again",
                 where);
        for (const auto& [key, text] : value.items()) {
          VALIDATE(text.is_string(), "{}: __metadata__ \"{}\" is not text (damaged file): write it again",
                   where, key);
          metadata[key] = text.get<std::string>();
        }
      } else {
        entries[name] = parse_entry(value, fmt::format("{}: tensor \"{}\"", where, name));
      }
    }
    check_layout(entries, size - data_begin, where);
  }
};

SafetensorsFile::SafetensorsFile() : state_(std::make_unique<State>()) {}
SafetensorsFile::~SafetensorsFile() = default;

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const fs::path& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->state_->path = path;
  file->state_->map();
  file->state_->parse();
  return file;
}

const fs::path& SafetensorsFile::path() const {
  return state_->path;
}
const std::map<std::string, SafetensorsEntry>& SafetensorsFile::entries() const {
  return state_->entries;
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->metadata;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const auto entry = state_->entries.find(name);
  VALIDATE(entry != state_->entries.end(),
           "{}: tensor \"{}\" is missing (incomplete or foreign file): check the model",
           state_->path.string(), name);
  return {state_->mapping + state_->data_begin + entry->second.begin,
          entry->second.end - entry->second.begin};
}

void write_safetensors(const fs::path& path, std::vector<SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::ranges::sort(tensors, [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::pair(dtype_order(a.dtype), a.name) < std::pair(dtype_order(b.dtype), b.name);
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t position = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const uint64_t size = byte_size(tensor.shape, dtype_bytes(tensor.dtype), tensor.name);
    EXPECT(size == tensor.bytes.size());
    EXPECT(tensor.name != kMetadata && !header.contains(tensor.name));
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {position, position + size}}};
    position += size;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // keeps the data section aligned to 8 bytes
  VALIDATE(text.size() <= kHeaderLimit,
           "{}: header of {} bytes is more than readers accept: write fewer tensors", path.string(),
           text.size());
  std::array<std::byte, 8> length{};
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(text.size() >> (8 * i));
  AtomicFile file(path);
  file.write(length);
  file.write(text);
  for (const SafetensorsTensor& tensor : tensors) file.write(tensor.bytes);
  file.commit();
}

}  // namespace surgery
