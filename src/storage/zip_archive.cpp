#include "storage/zip_archive.h"

#include <algorithm>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "storage/dtype.h"

namespace surgery {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr uint16_t kZip64Extra = 1;
constexpr uint32_t kIn64 = 0xFFFFFFFF;  // "see the zip64 field"
constexpr uint16_t kCountIn64 = 0xFFFF;
constexpr uint16_t kEncrypted = 1 | 1 << 6 | 1 << 13, kSizesBehind = 1 << 3;
constexpr uint16_t kKnownFlags = kEncrypted | kSizesBehind | 1 << 1 | 1 << 2 | 1 << 11;  // + levels, UTF-8

struct Directory {
  uint64_t count = 0, begin = 0, end = 0;
};

/// One entry as its central header tells it.
struct Header {
  std::string_view name;
  uint16_t flags = 0;
  uint64_t size = 0, begin = 0;           // bytes of content; position of the local header
  uint64_t data_begin = 0, data_end = 0;  // found through the local header
};

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> file, const std::string& where) : file_(file), where_(where) {}

  std::vector<ZipEntry> read() {
    const Directory directory = find_directory();
    VALIDATE(
        directory.count <= (directory.end - directory.begin) / kCentralBytes,
        "{}: its zip directory of {} bytes cannot hold {} entries (damaged or hostile file): copy it again",
        where_, directory.end - directory.begin, directory.count);
    std::vector<Header> headers;
    headers.reserve(directory.count);
    uint64_t position = directory.begin;
    for (uint64_t i = 0; i < directory.count; ++i) {
      headers.push_back(read_central(position, directory));
      find_data(headers.back(), directory);
    }
    VALIDATE(position == directory.end,
             "{}: foreign bytes in its zip directory behind entry {} (damaged file): copy it again", where_,
             directory.count);
    check_names(headers);
    check_places(headers);
    std::vector<ZipEntry> entries;
    entries.reserve(headers.size());
    for (const Header& header : headers)
      entries.push_back({header.name, file_.subspan(header.data_begin, header.size)});
    return entries;
  }

 private:
  /// A little-endian number; Error{data} where the file (or `end`) stops before it.
  template <class Number>
  Number number(uint64_t position, uint64_t end) const {
    VALIDATE(position <= end && end - position >= sizeof(Number),
             "{}: ends within its zip directory (truncated): copy it again", where_);
    uint64_t value = 0;
    for (size_t i = sizeof(Number); i-- > 0;)
      value = value << 8 | std::to_integer<uint64_t>(file_[position + i]);
    return static_cast<Number>(value);
  }
  uint16_t number16(uint64_t position) const { return number<uint16_t>(position, file_.size()); }
  uint32_t number32(uint64_t position) const { return number<uint32_t>(position, file_.size()); }
  uint64_t number64(uint64_t position) const { return number<uint64_t>(position, file_.size()); }

  std::string_view text(uint64_t position, uint64_t size) const {
    return {reinterpret_cast<const char*>(file_.data()) + position, size};
  }

  Directory find_directory() const {
    VALIDATE(file_.size() >= kEndBytes && number32(file_.size() - kEndBytes) == kEnd,
             "{}: has no zip directory at its end (truncated, or an archive with a comment): copy it again",
             where_);
    const uint64_t end = file_.size() - kEndBytes;
    VALIDATE(number16(end + 4) == 0 && number16(end + 6) == 0 && number16(end + 8) == number16(end + 10),
             "{}: is one part of a zip archive of several (its tensors are not all here): join the parts",
             where_);
    VALIDATE(number16(end + 20) == 0,
             "{}: its zip directory ends in a comment (not of torch.save): save it again", where_);
    Directory directory{number16(end + 10), number32(end + 16), end};
    uint64_t size = number32(end + 12);
    if (end >= kLocatorBytes && number32(end - kLocatorBytes) == kLocator64) read_end64(end, directory, size);
    VALIDATE(directory.begin <= directory.end && directory.end - directory.begin == size,
             "{}: its zip directory is not where it should be (damaged, or bytes were put before or behind "
             "it): copy it again",
             where_);
    return directory;
  }

  /// The wider fields of zip64, which stand before the end record at `end`.
  void read_end64(uint64_t end, Directory& directory, uint64_t& size) const {
    const uint64_t locator = end - kLocatorBytes, record = number64(locator + 8);
    VALIDATE(number32(locator + 4) == 0 && number32(locator + 16) == 1,
             "{}: is one part of a zip archive of several (its tensors are not all here): join the parts",
             where_);
    VALIDATE(record <= locator && locator - record >= kEnd64Bytes && number32(record) == kEnd64 &&
                 number64(record + 4) == locator - record - 12,
             "{}: its zip64 end record is not where it should be (damaged file): copy it again", where_);
    const uint64_t count = number64(record + 32), begin = number64(record + 48);
    VALIDATE(number32(record + 16) == 0 && number32(record + 20) == 0 && number64(record + 24) == count,
             "{}: is one part of a zip archive of several (its tensors are not all here): join the parts",
             where_);
    VALIDATE((directory.count == count || directory.count == kCountIn64) &&
                 (size == number64(record + 40) || size == kIn64) &&
                 (directory.begin == begin || directory.begin == kIn64),
             "{}: its two zip end records disagree (readers would see different files): save it again",
             where_);
    size = number64(record + 40);
    directory = {count, begin, record};
  }

  /// The central header at `position`, which moves behind it.
  Header read_central(uint64_t& position, const Directory& directory) const {
    VALIDATE(
        number<uint32_t>(position, directory.end) == kCentral && directory.end - position >= kCentralBytes,
        "{}: its zip directory is damaged at byte {}: copy it again", where_, position);
    Header header;
    header.flags = number16(position + 8);
    const uint16_t method = number16(position + 10), name_bytes = number16(position + 28);
    const uint16_t extra_bytes = number16(position + 30), comment_bytes = number16(position + 32);
    uint64_t stored = number32(position + 20);
    header.size = number32(position + 24);
    header.begin = number32(position + 42);
    const uint64_t behind = position + kCentralBytes + name_bytes + extra_bytes + comment_bytes;
    VALIDATE(behind <= directory.end, "{}: its zip directory is damaged at byte {}: copy it again", where_,
             position);
    header.name = text(position + kCentralBytes, name_bytes);
    check_name(header.name, position);
    uint64_t* wide[] = {&header.size, &stored, &header.begin};
    read_zip64(position + kCentralBytes + name_bytes, extra_bytes, wide, header.name);
    VALIDATE((header.flags & kEncrypted) == 0,
             "{}: entry \"{}\" is encrypted: unpack it and save it unencrypted", where_, header.name);
    VALIDATE((header.flags & ~kKnownFlags) == 0,
             "{}: entry \"{}\" has zip flags {:#x}, not of torch.save: save it again", where_, header.name,
             header.flags);
    VALIDATE(method == 0 && stored == header.size,
             "{}: entry \"{}\" is compressed (it could not be mapped, and might unpack to any size; "
             "programs of TorchScript are): save model.state_dict() with torch.save",
             where_, header.name);
    VALIDATE(number16(position + 34) == 0, "{}: entry \"{}\" lies on another disk: join the archive's parts",
             where_, header.name);
    position = behind;
    return header;
  }

  void check_name(std::string_view name, uint64_t position) const {
    VALIDATE(!name.empty() && name.size() <= kNameLimit && find_utf8_error(name) == name.npos &&
                 name.find('\0') == name.npos,
             "{}: the name of the zip entry at byte {} is empty, longer than {} bytes or not UTF-8 (damaged "
             "file): copy it again",
             where_, position, kNameLimit);
  }

  /// Replaces those of `fields` that say so by their zip64 values, which an extra field lists in this order.
  void read_zip64(uint64_t position, uint64_t extra_bytes, std::span<uint64_t* const> fields,
                  std::string_view name) const {
    const uint64_t end = position + extra_bytes;
    bool found = false;
    while (end - position >= 4) {
      const uint16_t kind = number16(position), size = number16(position + 2);
      position += 4;
      VALIDATE(size <= end - position, "{}: entry \"{}\" has a damaged extra field: copy the file again",
               where_, name);
      if (kind == kZip64Extra) {
        VALIDATE(!found,
                 "{}: entry \"{}\" has two zip64 fields (readers would disagree): save the file again",
                 where_, name);
        found = true;
        uint64_t at = position;
        for (uint64_t* field : fields) {
          if (*field != kIn64) continue;
          *field = number<uint64_t>(at, position + size);
          at += 8;
        }
      }
      position += size;
    }
  }

  /// Follows the header to its content. The local header must agree in all that a reader could go by.
  void find_data(Header& header, const Directory& directory) const {
    VALIDATE(
        header.begin <= directory.begin && directory.begin - header.begin >= kLocalBytes &&
            number32(header.begin) == kLocal,
        "{}: entry \"{}\" is not where the zip directory says (truncated or damaged file): copy it again",
        where_, header.name);
    const uint16_t name_bytes = number16(header.begin + 26), extra_bytes = number16(header.begin + 28);
    header.data_begin = header.begin + kLocalBytes + name_bytes + extra_bytes;
    VALIDATE(header.data_begin <= directory.begin && header.size <= directory.begin - header.data_begin,
             "{}: entry \"{}\" of {} bytes leaves the file (truncated or hostile): copy it again", where_,
             header.name, header.size);
    header.data_end = header.data_begin + header.size;
    uint64_t size = number32(header.begin + 22), stored = number32(header.begin + 18);
    uint64_t* wide[] = {&size, &stored};
    read_zip64(header.begin + kLocalBytes + name_bytes, extra_bytes, wide, header.name);
    // A writer that did not know the sizes yet says so by a flag and writes zeros here.
    const bool behind = (header.flags & kSizesBehind) != 0 && size == 0 && stored == 0;
    VALIDATE(text(header.begin + kLocalBytes, name_bytes) == header.name &&
                 number16(header.begin + 6) == header.flags && number16(header.begin + 8) == 0 &&
                 (behind || (size == header.size && stored == header.size)),
             "{}: entry \"{}\" is described differently in the zip directory and at its place (readers would "
             "see different files): save it again",
             where_, header.name);
  }

  void check_names(const std::vector<Header>& headers) const {
    std::vector<std::string_view> names;
    names.reserve(headers.size());
    for (const Header& header : headers) names.push_back(header.name);
    const auto twice = first_repeated(std::move(names));
    VALIDATE(!twice, "{}: entry \"{}\" occurs twice (readers would see different files): save it again",
             where_, *twice);
  }

  void check_places(std::vector<Header> headers) const {
    std::sort(headers.begin(), headers.end(),
              [](const Header& a, const Header& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < headers.size(); ++i)
      VALIDATE(headers[i - 1].data_end <= headers[i].begin,
               "{}: entries \"{}\" and \"{}\" overlap (damaged or hostile file): copy it again", where_,
               headers[i - 1].name, headers[i].name);
  }

  std::span<const std::byte> file_;
  const std::string& where_;
};

}  // namespace

std::vector<ZipEntry> read_zip(std::span<const std::byte> file, const std::string& where) {
  return ZipReader(file, where).read();
}

}  // namespace surgery
