#include "storage/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "storage/mapped_file.h"
#include "storage/strict_json.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kHeaderLimit = 100'000'000;  // bytes; the reference reader's own limit
constexpr const char* kMetadata = "__metadata__";

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
  const std::optional<DType> known = dtype_named(dtype);
  VALIDATE(
      !dtype.starts_with("F8_"),
      "{}: dtype {}, an 8-bit float, is not read here (too coarse to start surgery from): take the model's "
      "F32, F16 or BF16 file",
      where, dtype);
  VALIDATE(known, "{}: dtype {} is not read here: convert the file to F32, F16 or BF16", where, dtype);
  entry.dtype = *known;
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
  const uint64_t size = shape_bytes(entry.shape, entry.dtype, where);
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

SafetensorsHeader read_safetensors_header(std::span<const std::byte> file, const std::string& where) {
  SafetensorsHeader result;
  VALIDATE(file.size() >= 8, "{}: {} bytes are too few for a safetensors file (truncated): copy it again",
           where, file.size());
  uint64_t header_bytes = 0;
  for (size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8 | std::to_integer<uint64_t>(file[i]);
  VALIDATE(
      header_bytes <= kHeaderLimit && header_bytes <= file.size() - 8,
      "{}: header of {} bytes does not fit in the file's {} (truncated, or not safetensors): copy it again",
      where, header_bytes, file.size());
  result.data_begin = 8 + header_bytes;
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  VALIDATE(header.starts_with('{'), "{}: header does not begin with '{{' (not a safetensors file)", where);
  const size_t json_end = header.find_last_not_of(' ');
  VALIDATE(header[json_end] == '}', "{}: header ends in foreign bytes (damaged file): write it again", where);
  const Json json = parse_strict_json(header.substr(0, json_end + 1), where + ": header", 4);
  VALIDATE(json.size() <= kTensorLimit, "{}: {} tensors, at most {} are read (hostile file?)", where,
           json.size(), kTensorLimit);
  for (const auto& [name, value] : json.items()) {
    VALIDATE(name.size() <= kNameLimit, "{}: a tensor's name has {} bytes, at most {} are read", where,
             name.size(), kNameLimit);
    if (name == kMetadata) {
      VALIDATE(value.is_object(), "{}: __metadata__ is not an object (damaged file): write it again", where);
      for (const auto& [key, text] : value.items()) {
        VALIDATE(text.is_string(), "{}: __metadata__ \"{}\" is not text (damaged file): write it again",
                 where, key);
        result.metadata[key] = text.get<std::string>();
      }
    } else {
      result.entries[name] = parse_entry(value, fmt::format("{}: tensor \"{}\"", where, name));
    }
  }
  check_layout(result.entries, file.size() - result.data_begin, where);
  return result;
}

struct SafetensorsFile::State {
  fs::path path;
  std::shared_ptr<const MappedFile> file;
  SafetensorsHeader header;
};

SafetensorsFile::SafetensorsFile() : state_(std::make_unique<State>()) {}
SafetensorsFile::~SafetensorsFile() = default;

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const fs::path& path) {
  std::shared_ptr<SafetensorsFile> result(new SafetensorsFile);
  result->state_->path = path;
  result->state_->file = MappedFile::open(path);
  result->state_->header = read_safetensors_header(result->state_->file->bytes(), path.string());
  return result;
}

const fs::path& SafetensorsFile::path() const {
  return state_->path;
}
const std::map<std::string, SafetensorsEntry>& SafetensorsFile::entries() const {
  return state_->header.entries;
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->header.metadata;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const auto entry = entries().find(name);
  VALIDATE(entry != entries().end(),
           "{}: tensor \"{}\" is missing (incomplete or foreign file): check the model",
           state_->path.string(), name);
  return state_->file->bytes().subspan(state_->header.data_begin + entry->second.begin,
                                       entry->second.end - entry->second.begin);
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
    const uint64_t size = shape_bytes(tensor.shape, tensor.dtype, tensor.name);
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
  for (const SafetensorsTensor& tensor : tensors) {
    uint64_t missing = shape_bytes(tensor.shape, tensor.dtype, tensor.name);
    tensor.content([&](std::span<const std::byte> bytes) {
      EXPECT(bytes.size() <= missing);
      missing -= bytes.size();
      file.write(bytes);
    });
    EXPECT(missing == 0);
  }
  file.commit();
}

}  // namespace surgery
