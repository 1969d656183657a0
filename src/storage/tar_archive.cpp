#include "storage/tar_archive.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "storage/dtype.h"

namespace surgery {
namespace {

constexpr uint64_t kBlock = 512;
constexpr uint64_t kMostPadding = 1 << 20;

/// A field of a header block.
struct Field {
  size_t begin, size;
};
constexpr Field kName{0, 100}, kSize{124, 12}, kChecksum{148, 8}, kMagic{257, 8}, kPrefix{345, 155};
constexpr size_t kType = 156;
constexpr std::string_view kPosix("ustar\00000", 8), kGnu("ustar  \0", 8), kBefore("\0\0\0\0\0\0\0\0", 8);

/// What extension headers say about the next member, or about all that follow.
struct Extension {
  std::optional<std::string_view> path;
  std::optional<uint64_t> size;
};

class TarReader {
 public:
  TarReader(std::span<const std::byte> file, const std::string& where) : file_(file), where_(where) {}

  /// Throws at the first fault; what lies before it has been read.
  void read() {
    const size_t rest = file_.size() % kBlock;
    const bool whole = rest == 0 && !file_.empty();
    file_ = file_.first(file_.size() - rest);
    if (!file_.empty()) {
      while (!at_end()) read_member();
      VALIDATE(!pending_, "{}: ends behind an extension header (a member is missing): copy it again", where_);
    }
    VALIDATE(whole,
             "{}: is no whole number of tar's blocks of {} bytes (truncated, or not a tar archive): copy it "
             "again",
             where_, kBlock);
  }

  void check_names() const {
    std::vector<std::string_view> names;
    names.reserve(entries_.size());
    for (const TarEntry& entry : entries_) names.push_back(entry.name);
    const auto twice = first_repeated(std::move(names));
    VALIDATE(!twice, "{}: \"{}\" occurs twice (readers would see different files): pack it again", where_,
             *twice);
  }

  std::vector<TarEntry> take() { return std::move(entries_); }

 private:
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_data("{}: the member at byte {} {}", where_, position_,
              fmt::format(format, std::forward<Args>(args)...));
  }

  // ---- blocks
  std::string_view block() const {
    VALIDATE(position_ < file_.size(),
             "{}: ends without tar's two zero blocks (truncated: members may be missing): copy it again",
             where_);
    return {reinterpret_cast<const char*>(file_.data()) + position_, kBlock};
  }
  static bool is_zero(std::string_view bytes) { return bytes.find_first_not_of('\0') == bytes.npos; }

  /// Whether the archive's end is here: two zero blocks, and nothing but zeros behind them.
  bool at_end() {
    if (!is_zero(block())) return false;
    const uint64_t first = position_;
    for (; position_ < file_.size(); position_ += kBlock)
      VALIDATE(
          is_zero(block()),
          "{}: bytes behind the archive's end at {} (several archives in one file, or damaged): join them "
          "with tar --concatenate, or copy it again",
          where_, position_);
    // Writers fill a record of at most some hundred blocks; more is a file that was only reserved.
    VALIDATE(file_.size() - first <= kMostPadding,
             "{}: {} bytes of zeros behind {} (a copy that broke off in a file of full size?): copy it again",
             where_, file_.size() - first, first);
    position_ = first + kBlock;
    block();
    return true;
  }

  static std::string_view field(std::string_view header, Field place) {
    return header.substr(place.begin, place.size);
  }
  static std::string_view until_zero(std::string_view bytes) { return bytes.substr(0, bytes.find('\0')); }

  /// Octal digits, or base-256 where the first bit says so; blank is 0.
  uint64_t number(std::string_view bytes, const char* what) const {
    uint64_t value = 0;
    if ((static_cast<uint8_t>(bytes[0]) & 0x80) != 0) {
      for (size_t i = 0; i < bytes.size(); ++i) {
        const uint64_t byte = static_cast<uint8_t>(bytes[i]) & (i == 0 ? 0x7F : 0xFF);
        if (value >> 55 != 0) fail("has a {} that cannot be (damaged or hostile file): copy it again", what);
        value = value << 8 | byte;
      }
      return value;
    }
    const size_t begin = std::min(bytes.find_first_not_of(' '), bytes.size());
    const size_t end = std::min(bytes.find_first_of(std::string_view(" \0", 2), begin), bytes.size());
    for (const char digit : bytes.substr(begin, end - begin)) {
      if (digit < '0' || digit > '7') fail("has a {} that is no number (damaged file): copy it again", what);
      value = value << 3 | static_cast<uint64_t>(digit - '0');  // 12 digits at most: 36 bits
    }
    return value;
  }

  void check_header(std::string_view header) const {
    uint64_t sum = 8 * uint64_t{' '};  // the checksum itself counts as spaces
    for (size_t i = 0; i < kBlock; ++i)
      if (i < kChecksum.begin || i >= kChecksum.begin + kChecksum.size)
        sum += static_cast<uint8_t>(header[i]);
    VALIDATE(
        number(field(header, kChecksum), "checksum") == sum,
        "{}: the header at byte {} has another checksum than it says (damaged, or not a tar archive): copy "
        "it again",
        where_, position_);
    const std::string_view magic = field(header, kMagic);
    if (magic != kPosix && magic != kGnu && magic != kBefore)
      fail("is of no kind of tar that is known here (ustar, pax, GNU): pack it again");
  }

  // ---- members
  void read_member() {
    const std::string_view header = block();
    check_header(header);
    const char type = header[kType] == '\0' ? '0' : header[kType];
    const bool extension = type == 'x' || type == 'g' || type == 'L';
    // Extensions are about the member behind them, never about each other.
    const uint64_t size = extension ? number(field(header, kSize), "size") : size_of(header);
    const uint64_t rest = file_.size() - position_ - kBlock;
    if (size > rest) fail("of {} bytes leaves the file (truncated or hostile): copy it again", size);
    const auto content = file_.subspan(position_ + kBlock, size);
    const std::string_view text(reinterpret_cast<const char*>(content.data()), size);
    if (type == 'x' || type == 'g')
      read_pax(text, type == 'x' ? next_ : all_);
    else if (type == 'L')
      read_long_name(text);
    else if (type == '5')
      pass_directory(header, size);
    else
      add_file(header, type, content);
    pending_ = type == 'x' || type == 'L' || (pending_ && type == 'g');
    if (!extension) next_ = {};
    position_ += kBlock + (size + kBlock - 1) / kBlock * kBlock;  // rest is whole blocks
  }

  uint64_t size_of(std::string_view header) const {
    if (next_.size) return *next_.size;
    return all_.size ? *all_.size : number(field(header, kSize), "size");
  }

  std::string name_of(std::string_view header) const {
    if (next_.path) return std::string(*next_.path);
    if (all_.path) return std::string(*all_.path);
    const std::string_view name = until_zero(field(header, kName));
    // GNU's own headers keep times where ustar has the prefix.
    const std::string_view prefix =
        field(header, kMagic) == kPosix ? until_zero(field(header, kPrefix)) : std::string_view();
    return prefix.empty() ? std::string(name) : fmt::format("{}/{}", prefix, name);
  }

  void add_file(std::string_view header, char type, std::span<const std::byte> content) {
    const std::string name = plain_name(name_of(header), false);
    if (type == '1' || type == '2' || type == 'K')
      fail(
          "(\"{}\") is a link (it would show another file): pack the files themselves (tar --dereference "
          "--hard-dereference)",
          name);
    if (type != '0')
      fail("(\"{}\") is of type '{}', no plain file (a device, a sparse file, ...): pack plain files", name,
           type > ' ' && type < '\x7f' ? type : '?');
    entries_.push_back({name, content});
  }

  void pass_directory(std::string_view header, uint64_t size) const {
    plain_name(name_of(header), true);
    if (size != 0) fail("is a directory with content (readers would disagree): pack it again");
  }

  /// The name without leading "./"; every part of it must be one of a file below the folder.
  std::string plain_name(std::string name, bool directory) const {
    if (name.empty() || name.size() > kNameLimit || find_utf8_error(name) != name.npos ||
        name.find('\0') != name.npos)
      fail("has a name that is empty, longer than {} bytes or not UTF-8: pack it under another", kNameLimit);
    if (name.front() == '/')
      fail("(\"{}\") has an absolute name (it leads out of the folder): pack it again", name);
    if (directory && name.back() == '/') name.pop_back();
    while (name.starts_with("./")) name.erase(0, 2);
    if (directory && name == ".") return name;
    for (size_t begin = 0; begin <= name.size();) {
      const size_t end = std::min(name.find('/', begin), name.size());
      const std::string_view part = std::string_view(name).substr(begin, end - begin);
      if (part.empty() || part == "." || part == "..")
        fail(
            "(\"{}\") has a name with an empty part, . or .. (it leads out of the folder, or readers would "
            "disagree): pack it again",
            name);
      begin = end + 1;
    }
    return name;
  }

  // ---- extensions
  void read_long_name(std::string_view text) {
    if (next_.path) fail("has two long names (readers would disagree): pack it again");
    if (!text.ends_with('\0')) fail("has a long name without its end (damaged file): copy it again");
    next_.path = text.substr(0, text.size() - 1);
  }

  /// Records `LENGTH KEY=VALUE\n`, where LENGTH counts all of a record.
  void read_pax(std::string_view text, Extension& extension) {
    Extension found;
    while (!text.empty()) {
      const size_t space = text.find(' ');
      uint64_t length = 0;
      for (const char digit : text.substr(0, std::min<size_t>(space, 10)))
        length =
            digit >= '0' && digit <= '9' ? 10 * length + static_cast<uint64_t>(digit - '0') : text.size() + 1;
      if (space == text.npos || length > text.size() || length < space + 3 || text[length - 1] != '\n')
        fail("has a damaged pax header: copy the file again");
      const std::string_view record = text.substr(space + 1, length - space - 2);
      const size_t equals = record.find('=');
      if (equals == record.npos) fail("has a damaged pax header: copy the file again");
      read_pax_record(record.substr(0, equals), record.substr(equals + 1), found);
      text.remove_prefix(length);
    }
    if (found.path && extension.path && &extension == &next_)
      fail("has two long names (readers would disagree): pack it again");
    if (found.path) extension.path = found.path;
    if (found.size) extension.size = found.size;
  }

  void read_pax_record(std::string_view key, std::string_view value, Extension& found) const {
    if (key.starts_with("GNU.sparse."))
      fail("is a sparse file (its content is not what lies here): pack it without --sparse");
    if ((key == "path" && found.path) || (key == "size" && found.size))
      fail("has two values of {} in one pax header (readers would disagree): pack it again", key);
    if (key == "path") found.path = value;
    if (key != "size") return;
    uint64_t size = 0;
    for (const char digit : value) {
      if (digit < '0' || digit > '9' || size > file_.size())
        fail("has a size that cannot be (damaged or hostile file): copy it again");
      size = 10 * size + static_cast<uint64_t>(digit - '0');
    }
    if (value.empty()) fail("has a size that cannot be (damaged or hostile file): copy it again");
    found.size = size;
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  uint64_t position_ = 0;  // of the header in hand
  Extension next_, all_;   // of the next member; of all that follow
  bool pending_ = false;   // an extension waits for its member
  std::vector<TarEntry> entries_;
};

}  // namespace

TarRead read_tar(std::span<const std::byte> file, const std::string& where) {
  TarReader reader(file, where);
  TarRead result;
  const auto fault_of = [](const auto& step) -> std::string {
    try {
      step();
      return {};
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      return error.what();
    }
  };
  result.fault = fault_of([&] { reader.read(); });
  const std::string ambiguous = fault_of([&] { reader.check_names(); });
  if (ambiguous.empty()) result.entries = reader.take();
  if (result.fault.empty()) result.fault = ambiguous;
  return result;
}

}  // namespace surgery
