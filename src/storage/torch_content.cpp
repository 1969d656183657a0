#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/errors.h"
#include "storage/pickle.h"
#include "storage/torch_file.h"
#include "storage/zip_archive.h"

namespace surgery {
namespace {

using Kind = Pickle::Kind;
using Index = Pickle::Index;

// Plain values beside the tensors; entries of a dict that is searched for a state dict.
constexpr uint32_t kPlainLimit = 1000, kSearchLimit = 100;
constexpr std::string_view kPickleName = "data.pkl";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::array<std::pair<std::string_view, DType>, 10> kStorages{
    {{"torch.DoubleStorage", DType::f64},
     {"torch.FloatStorage", DType::f32},
     {"torch.HalfStorage", DType::f16},
     {"torch.BFloat16Storage", DType::bf16},
     {"torch.LongStorage", DType::i64},
     {"torch.IntStorage", DType::i32},
     {"torch.ShortStorage", DType::i16},
     {"torch.CharStorage", DType::i8},
     {"torch.ByteStorage", DType::u8},
     {"torch.BoolStorage", DType::boolean}}};

std::optional<DType> storage_dtype(std::string_view global) {
  for (const auto& [name, dtype] : kStorages)
    if (name == global) return dtype;
  return std::nullopt;
}

void check_global(std::string_view name, const std::string& where) {
  if (name == "collections.OrderedDict" || name == kRebuildTensor || name == kRebuildParameter ||
      storage_dtype(name))
    return;
  // torch.save writes dtypes that came late (8-bit floats, unsigned integers) and other storages like this.
  VALIDATE(name != "torch._utils._rebuild_tensor_v3" && !name.ends_with("Storage"),
           "{}: holds a tensor of a dtype that is not read here ({}: 8-bit float, complex, quantised or wide "
           "unsigned): take the model's F32, F16 or BF16 file",
           where, name);
  fail_data(
      "{}: wants to import {} (not needed for weights, and loading such a file in Python may run foreign "
      "code): take another file, or load it where that is safe and save only model.state_dict()",
      where, name);
}

/// A storage as data.pkl names it, and its record in the archive.
struct Storage {
  DType dtype = DType::f32;
  uint64_t elements = 0, begin = 0;  // begin: bytes from the file's start
};

class TorchReader {
 public:
  TorchReader(std::span<const std::byte> file, const std::string& where)
      : file_(file),
        where_(where),
        records_(read_records()),
        pickle_(record(kPickleName), fmt::format("{}: {}", where, kPickleName), check_global) {}

  TorchContent read() {
    const auto [key, dict] = state_dict();
    TorchContent content;
    content.key = key;
    const std::vector<Index> items = pickle_.items(dict);
    for (size_t i = 0; i < items.size(); i += 2) read_item(items[i], items[i + 1], content);
    return content;
  }

  TorchEntry read_bare_tensor() {
    if (!is_tensor(pickle_.root()))
      fail("holds a {}, not one tensor: save the tensor itself with torch.save",
           kind_name(pickle_.kind(pickle_.root())));
    return read_tensor(pickle_.root(), "");
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_data("{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }

  // ---- records of the archive, named without the folder that all of them share
  std::map<std::string_view, std::span<const std::byte>> read_records() const {
    const std::vector<ZipEntry> entries = read_zip(file_, where_);
    std::string_view folder;
    for (const ZipEntry& entry : entries) {
      const size_t slash = entry.name.find('/');
      if (slash != entry.name.npos && entry.name.substr(slash + 1) == kPickleName) {
        VALIDATE(folder.empty(), "{}: holds two data.pkl (readers would see different files): save it again",
                 where_);
        folder = entry.name.substr(0, slash + 1);
      }
    }
    VALIDATE(!folder.empty(),
             "{}: is a zip archive without data.pkl (not of torch.save): name a file of weights", where_);
    std::map<std::string_view, std::span<const std::byte>> records;
    for (const ZipEntry& entry : entries)
      if (entry.name.starts_with(folder)) records[entry.name.substr(folder.size())] = entry.bytes;
    VALIDATE(!records.contains("constants.pkl"),
             "{}: is a TorchScript program, not a file of weights: save its state_dict() with torch.save",
             where_);
    const auto order = records.find("byteorder");
    VALIDATE(order == records.end() || text_of(order->second) == "little",
             "{}: its byte order is not little-endian: save it again on a little-endian machine", where_);
    return records;
  }
  static std::string_view text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::span<const std::byte> record(std::string_view name) const {
    const auto found = records_.find(name);
    VALIDATE(found != records_.end(), "{}: record \"{}\" is missing (incomplete file): copy it again", where_,
             name);
    return found->second;
  }

  // ---- the dict of tensors
  bool is_tensor(Index value) const { return pickle_.kind(value) == Kind::call; }
  bool is_plain(Index value) const { return pickle_.kind(value) <= Kind::text; }
  bool holds_tensors(Index dict) const {
    const std::vector<Index> items = pickle_.items(dict);
    for (size_t i = 1; i < items.size(); i += 2)
      if (is_tensor(items[i])) return true;
    return false;
  }

  /// The one dict that holds tensors: the outermost, or one of its values; and its key there.
  std::pair<std::string, Index> state_dict() const {
    const Index root = pickle_.root();
    if (pickle_.kind(root) != Kind::dict)
      fail("holds a {}, not a dict of tensors: save model.state_dict()", kind_name(pickle_.kind(root)));
    if (holds_tensors(root)) return {"", root};
    if (pickle_.size(root) > 2 * kSearchLimit)
      fail("holds no tensors among many values: save model.state_dict()");
    std::optional<std::pair<std::string, Index>> found;
    const std::vector<Index> items = pickle_.items(root);
    for (size_t i = 0; i < items.size(); i += 2) {
      if (pickle_.kind(items[i + 1]) != Kind::dict || !holds_tensors(items[i + 1])) continue;
      const std::string key = key_text(items[i]);
      if (found)
        fail("holds several dicts of tensors (\"{}\", \"{}\"; which one is meant?): save only one of them",
             found->first, key);
      found.emplace(key, items[i + 1]);
    }
    if (!found) fail("holds no tensors, nor one dict of tensors: save model.state_dict()");
    return *found;
  }
  std::string key_text(Index key) const {
    if (pickle_.kind(key) != Kind::text || pickle_.text(key).size() > kNameLimit)
      fail("a key is a {}, or longer than {} bytes: save model.state_dict()", kind_name(pickle_.kind(key)),
           kNameLimit);
    return std::string(pickle_.text(key));
  }

  void read_item(Index key, Index value, TorchContent& content) const {
    const std::string name = key_text(key);
    if (content.entries.contains(name) || content.metadata.contains(name))
      fail("\"{}\" occurs twice (readers would see different files): save it again", name);
    if (is_tensor(value))
      content.entries[name] = read_tensor(value, name);
    else if (is_plain(value) && content.metadata.size() < kPlainLimit &&
             pickle_.text(value).size() <= kNameLimit)
      content.metadata[name] = plain_text(value);
    else
      fail("\"{}\" beside the tensors is a {} that is not read: save model.state_dict()", name,
           kind_name(pickle_.kind(value)));
    if (content.entries.size() > kTensorLimit)
      fail("more than {} tensors (hostile file?): check its source", kTensorLimit);
  }
  std::string plain_text(Index value) const {
    switch (pickle_.kind(value)) {
      case Kind::boolean:
        return pickle_.integer(value) != 0 ? "true" : "false";
      case Kind::integer:
        return fmt::format("{}", pickle_.integer(value));
      case Kind::real:
        return fmt::format("{}", pickle_.real(value));
      case Kind::text:
        return std::string(pickle_.text(value));
      default:
        return "none";
    }
  }

  // ---- tensors
  [[noreturn]] void fail_tensor(const std::string& name, const char* what) const {
    fail("tensor \"{}\": {} (damaged or hostile file): save it again with torch.save", name, what);
  }
  std::vector<Index> arguments(Index call) const { return pickle_.items(pickle_.items(call)[1]); }
  std::string_view callable(Index call) const { return pickle_.text(pickle_.items(call)[0]); }

  TorchEntry read_tensor(Index value, const std::string& name) const {
    if (callable(value) == kRebuildParameter) {  // (tensor, requires_grad, hooks)
      const Index arguments_tuple = pickle_.items(value)[1];
      if (pickle_.size(arguments_tuple) != 3) fail_tensor(name, "a parameter without its tensor");
      value = arguments(value)[0];
      if (!is_tensor(value)) fail_tensor(name, "a parameter without its tensor");
    }
    // (storage, offset, size, stride, requires_grad, hooks[, metadata])
    const uint32_t count = callable(value) == kRebuildTensor ? pickle_.size(pickle_.items(value)[1]) : 0;
    if (count != 6 && count != 7) fail_tensor(name, "not made as torch.save does");
    const std::vector<Index> parts = arguments(value);
    if (count == 7 && pickle_.kind(parts[6]) != Kind::none && pickle_.size(parts[6]) != 0)
      fail_tensor(name, "a conjugate or negative view");
    const Storage storage = read_storage(parts[0], name);
    const uint64_t offset = whole_number(parts[1], name);
    TorchEntry entry;
    entry.dtype = storage.dtype;
    entry.shape = whole_numbers(parts[2], name);
    entry.strides = whole_numbers(parts[3], name);
    if (entry.shape.size() != entry.strides.size())
      fail_tensor(name, "its shape and strides differ in length");
    place(entry, storage, offset, name);
    return entry;
  }

  /// Where in the file the view begins and ends.
  void place(TorchEntry& entry, const Storage& storage, uint64_t offset, const std::string& name) const {
    const uint64_t width = static_cast<uint64_t>(dtype_bytes(entry.dtype));
    const uint64_t size =
        shape_bytes(entry.shape, entry.dtype, fmt::format("{}: tensor \"{}\"", where_, name));
    uint64_t last = offset;  // the largest element index
    bool overflow = offset > storage.elements;
    for (size_t i = 0; i < entry.shape.size() && size != 0; ++i) {
      uint64_t reach = 0;
      overflow |= __builtin_mul_overflow(static_cast<uint64_t>(entry.shape[i] - 1),
                                         static_cast<uint64_t>(entry.strides[i]), &reach);
      overflow |= __builtin_add_overflow(last, reach, &last);
    }
    if (overflow || (size != 0 && last >= storage.elements)) fail_tensor(name, "it leaves its storage");
    if (size / width > storage.elements)
      fail(
          "tensor \"{}\": it shows elements of its storage more than once (an expanded view, whose copy the "
          "file's size does not bound): save its .contiguous()",
          name);
    entry.begin = storage.begin + offset * width;
    entry.end = size == 0 ? entry.begin : storage.begin + (last + 1) * width;
  }

  /// ("storage", type, key, device, number of elements); the device it was on does not matter.
  Storage read_storage(Index value, const std::string& name) const {
    if (pickle_.kind(value) != Kind::persistent) fail_tensor(name, "it has no storage");
    const Index id = pickle_.items(value)[0];
    if (pickle_.kind(id) != Kind::tuple || pickle_.size(id) != 5)
      fail_tensor(name, "its storage is not described");
    const std::vector<Index> parts = pickle_.items(id);
    if (pickle_.kind(parts[0]) != Kind::text || pickle_.text(parts[0]) != "storage" ||
        pickle_.kind(parts[1]) != Kind::global || pickle_.kind(parts[2]) != Kind::text)
      fail_tensor(name, "its storage is not described");
    const std::optional<DType> dtype = storage_dtype(pickle_.text(parts[1]));
    if (!dtype) fail_tensor(name, "its storage has no type");
    const std::span<const std::byte> bytes =
        record("data/" + std::string(pickle_.text(parts[2]).substr(0, kNameLimit)));
    Storage storage;
    storage.dtype = *dtype;
    storage.elements = whole_number(parts[4], name);
    storage.begin = static_cast<uint64_t>(bytes.data() - file_.data());
    uint64_t size = 0;
    if (__builtin_mul_overflow(storage.elements, static_cast<uint64_t>(dtype_bytes(*dtype)), &size) ||
        size != bytes.size())
      fail_tensor(name, "its storage has another size than its record");
    return storage;
  }

  uint64_t whole_number(Index value, const std::string& name) const {
    if (pickle_.kind(value) != Kind::integer || pickle_.integer(value) < 0)
      fail_tensor(name, "an offset, extent, stride or size is not a whole number");
    return static_cast<uint64_t>(pickle_.integer(value));
  }
  std::vector<int64_t> whole_numbers(Index value, const std::string& name) const {
    if (pickle_.kind(value) != Kind::tuple || pickle_.size(value) > kRankLimit)
      fail_tensor(name, "its shape or strides are no tuple, or have too many axes");
    std::vector<int64_t> numbers;
    for (const Index item : pickle_.items(value))
      numbers.push_back(static_cast<int64_t>(whole_number(item, name)));
    return numbers;
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  std::map<std::string_view, std::span<const std::byte>> records_;
  Pickle pickle_;
};

/// The pickled number with which torch.save began its files before 1.6.
constexpr std::string_view kLegacyMagic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);

std::string_view first_bytes(std::span<const std::byte> head) {
  return {reinterpret_cast<const char*>(head.data()), std::min<size_t>(head.size(), 32)};
}
bool is_legacy(std::span<const std::byte> head) {
  const std::string_view start = first_bytes(head);
  return start.starts_with('\x80') && start.find(kLegacyMagic) != start.npos;
}

}  // namespace

bool is_torch_file(std::span<const std::byte> head) {
  const std::string_view start = first_bytes(head);
  // In a safetensors file these bytes would be its header's length, and '{' the ninth.
  const bool zip = start.starts_with("PK\x03\x04") && !(start.size() > 8 && start[8] == '{');
  return zip || is_legacy(head);
}

namespace {
void check_torch_file(std::span<const std::byte> file, const std::string& where) {
  VALIDATE(
      !is_legacy(file),
      "{}: is in torch.save's format from before torch 1.6, which cannot be mapped: convert it once with "
      "python3 -c \"import torch; torch.save(torch.load('OLD.pth', map_location='cpu'), 'NEW.pth')\"",
      where);
  VALIDATE(is_torch_file(file),
           "{}: does not begin like a zip archive (not a file of torch.save): check its source", where);
}
}  // namespace

TorchContent read_torch_content(std::span<const std::byte> file, const std::string& where) {
  check_torch_file(file, where);
  return TorchReader(file, where).read();
}

TorchEntry read_torch_tensor(std::span<const std::byte> file, const std::string& where) {
  check_torch_file(file, where);
  return TorchReader(file, where).read_bare_tensor();
}

}  // namespace surgery
