#include "storage/tar_archive.h"

#include <gtest/gtest.h>

#include <vector>

#include "tar_builder.h"
#include "test_folder.h"

namespace surgery {
namespace {

using Parts = std::vector<TarPart>;
using Names = std::vector<std::string>;

std::vector<TarEntry> read(const std::string& bytes) {
  TarRead found = read_tar(std::as_bytes(std::span(bytes)), "a.tar");
  if (!found.fault.empty()) throw Error(ExitCode::data, found.fault);
  return found.entries;
}
Names names(const std::string& bytes) {
  Names result;
  for (const TarEntry& entry : read(bytes)) result.push_back(entry.name);
  return result;
}
void expect_refused(const std::string& bytes, const std::string& message) {
  expect_error(ExitCode::data, message, [&] { read(bytes); });
}
std::string text_of(const TarEntry& entry) {
  return {reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()};
}
std::string base256(uint64_t value) {
  std::string bytes(12, '\0');
  for (size_t i = 12; i-- > 4; value >>= 8) bytes[i] = static_cast<char>(value & 0xFF);
  bytes[0] = '\x80';
  return bytes;
}

const std::string kGnu("ustar  \0", 8), kBefore(8, '\0');
const Parts kTwo{{"a.latent.pt", "first"}, {"a.prompt.txt", std::string(700, 'x')}};

TEST(TarArchive, MembersComeBackWhateverTheDialect) {
  for (const std::string& magic : {TarPart().magic, kGnu, kBefore})
    for (const char type : {'0', '\0'}) {
      Parts parts{{"a", "first"},
                  {"b/c d", std::string(1300, 'x')},
                  {"\xC3\xA9", ""},
                  {"last", std::string(512, 'y')}};
      for (TarPart& part : parts) part.magic = magic, part.type = type;
      const std::string archive = build_tar(parts);
      const std::vector<TarEntry> entries = read(archive);
      ASSERT_EQ(entries.size(), parts.size());
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(entries[i].name, parts[i].name);
        EXPECT_EQ(text_of(entries[i]), parts[i].bytes);
      }
    }
  EXPECT_TRUE(read(tar_end()).empty());
  EXPECT_EQ(names(build_tar(kTwo) + std::string(10240, '\0')).size(), 2u) << "records are padded with zeros";
}

TEST(TarArchive, TruncatedAnywhereIsRefused) {
  const std::string whole = build_tar(Parts{{"././@LongLink", std::string(150, 'n') + '\0', 'L', kGnu},
                                            {"n", "content", '0', kGnu},
                                            {"pax", pax_record("path", "long/name"), 'x'},
                                            {"x", std::string(1000, 'x')}});
  EXPECT_EQ(names(whole), (Names{std::string(150, 'n'), "long/name"}));
  const auto before_fault = [](const std::string& bytes) {
    return read_tar(std::as_bytes(std::span(bytes)), "a.tar");
  };
  for (size_t length = 0; length < whole.size(); ++length) {
    if (length % 512 != 0 && length % 37 != 0) continue;
    const std::string cut = whole.substr(0, length);
    expect_refused(cut, "a.tar: ");
    // Three blocks until the first member's header, two of it; two of the extension, three of the second.
    const TarRead found = before_fault(cut);
    EXPECT_TRUE(found.fault.starts_with("a.tar: ")) << length;
    ASSERT_EQ(found.entries.size(), length < 4 * 512 ? 0 : length < 9 * 512 ? 1 : 2) << length;
    for (size_t i = 0; i < found.entries.size(); ++i)
      EXPECT_EQ(text_of(found.entries[i]), i == 0 ? "content" : std::string(1000, 'x')) << length;
  }
  EXPECT_EQ(before_fault(whole).fault, "");
  EXPECT_EQ(before_fault(whole).entries.size(), 2u);
  const TarRead behind = before_fault(build_tar(Parts{{"a", "x"}, {"b", "", '2'}, {"c", "z"}}));
  EXPECT_EQ(behind.entries.size(), 1u) << "nothing behind a fault";
  EXPECT_NE(behind.fault.find("is a link"), std::string::npos);
  const TarRead twice = before_fault(build_tar(Parts{{"a", "x"}, {"b", "y"}, {"a", "z"}}));
  EXPECT_TRUE(twice.entries.empty());
  EXPECT_NE(twice.fault.find("occurs twice"), std::string::npos);
}

TEST(TarArchive, NamesBeyondTheHeadersFieldAreRead) {
  const std::string longest(100, 'n'), prefix(155, 'p'),
      global = pax_record("comment", "of git") + pax_record("mtime", "1.5");
  EXPECT_EQ(names(build_tar(Parts{{longest, "x", '0', TarPart().magic, prefix}})),
            Names{prefix + "/" + longest});
  EXPECT_EQ(names(build_tar(Parts{{"a", "x", '0', kGnu, "times"}})), Names{"a"}) << "GNU has no prefix";
  const std::string name(300, 'l'), unicode(200, '\x41');
  EXPECT_EQ(names(build_tar(Parts{{"g", global, 'g'},
                                  {"././@LongLink", name + '\0', 'L', kGnu},
                                  {name.substr(0, 100), "x", '0', kGnu},
                                  {"x", pax_record("mtime", "12.5") + pax_record("path", unicode), 'x'},
                                  {"cut", "y"},
                                  {"plain", "z"}})),
            (Names{name, unicode, "plain"}));
  // A global header is about every member, one's own stands above it, also with another between them.
  EXPECT_EQ(names(build_tar(Parts{{"g", pax_record("path", "all"), 'g'}, {"a", "x"}})), Names{"all"});
  EXPECT_EQ(names(build_tar(Parts{{"x", pax_record("path", "own"), 'x'},
                                  {"g", pax_record("path", "all"), 'g'},
                                  {"a", "x"},
                                  {"b", "y"}})),
            (Names{"own", "all"}));
}

TEST(TarArchive, SizesMayBeWide) {
  EXPECT_EQ(text_of(read(build_tar(Parts{{"a", "five5", '0', kGnu, "", base256(5)}}))[0]), "five5");
  // As tarfile writes a file of 8 GiB or more: the true size in the pax header alone.
  const std::string zero(11, '0'), size = pax_record("size", "5");
  EXPECT_EQ(
      text_of(read(build_tar(Parts{{"x", size, 'x'}, {"a", "five5", '0', TarPart().magic, "", zero}}))[0]),
      "five5");
  EXPECT_EQ(text_of(read(build_tar(
                Parts{{"a", "five5", '0', TarPart().magic, "", std::string("     5\0    ", 11)}}))[0]),
            "five5");
}

TEST(TarArchive, SizesBeyondTheFileAreRefused) {
  for (const std::string& size :
       {tar_octal(2000, 11), std::string(12, '7'), base256(2000), base256(INT64_MAX)})
    expect_refused(build_tar(Parts{{"a", "x", '0', kGnu, "", size}}), "");
  expect_refused(build_tar(Parts{{"a", "x", '0', kGnu, "", tar_octal(2000, 11)}}),
                 "of 2000 bytes leaves the file");
  expect_refused(build_tar(Parts{{"a", "x", '0', kGnu, "", std::string(12, '\xff')}}), "size that cannot be");
  expect_refused(build_tar(Parts{{"a", "x", '0', kGnu, "", "12x"}}), "size that is no number");
  for (const std::string size : {"2000", "99999999999999999999999", "", "-1", "5 "}) {
    const Parts parts{{"x", pax_record("size", size), 'x'}, {"a", "x"}};
    expect_refused(build_tar(parts), "a.tar: the member at byte");
  }
  for (const char type : {'x', 'g', 'L'})
    expect_refused(build_tar(Parts{{"h", "y", type, kGnu, "", tar_octal(1 << 20, 11)}}), "leaves the file");
}

TEST(TarArchive, OnlyPlainFilesPass) {
  EXPECT_EQ(names(build_tar(Parts{{"./", "", '5'}, {"d/", "", '5'}, {"./d/a", "x"}, {"d", "", '5'}})),
            Names{"d/a"});
  expect_refused(build_tar(Parts{{"d/", "trap", '5'}}), "is a directory with content");
  expect_refused(build_tar(Parts{{"d/", "", '0'}}), "with an empty part");
  for (const char type : {'1', '2', 'K'}) expect_refused(build_tar(Parts{{"a", "", type}}), "is a link");
  for (const char type : {'3', '4', '6', '7', 'S', 'D', 'V', 'X', '\x01'})
    expect_refused(build_tar(Parts{{"a", "", type}}), "no plain file");
  expect_refused(build_tar(Parts{{"x", pax_record("GNU.sparse.major", "1"), 'x'}, {"a", "x"}}),
                 "is a sparse file");
}

TEST(TarArchive, NamesStayInTheFolder) {
  for (const std::string name : {"/etc/passwd", "//a"})
    expect_refused(build_tar(Parts{{name, "x"}}), "has an absolute name");
  for (const std::string name : {"../a", "a/../b", "a/..", "..", "a//b", "a/./b", ".", "./", "././"}) {
    expect_refused(build_tar(Parts{{name, "x"}}), "with an empty part, . or ..");
    expect_refused(build_tar(Parts{{"x", pax_record("path", name), 'x'}, {"a", "x"}}),
                   "with an empty part, . or ..");
  }
  expect_refused(build_tar(Parts{{"../d/", "", '5'}}), "with an empty part, . or ..");
  expect_refused(build_tar(Parts{{"", "x"}}), "has a name that is empty");
  expect_refused(build_tar(Parts{{"\xff", "x"}}), "not UTF-8");
  expect_refused(build_tar(Parts{{"x", pax_record("path", std::string("a\0b", 3)), 'x'}, {"a", "x"}}),
                 "has a name");
  expect_refused(build_tar(Parts{{"x", pax_record("path", std::string(2000, 'n')), 'x'}, {"a", "x"}}),
                 "longer than 1024");
  expect_refused(build_tar(Parts{{"a", "x"}, {"b", "y"}, {"a", "z"}}), "\"a\" occurs twice");
  expect_refused(build_tar(Parts{{"a", "x"}, {"./a", "z"}}), "\"a\" occurs twice");
  expect_refused(build_tar(Parts{{"g", pax_record("path", "all"), 'g'}, {"a", "x"}, {"b", "x"}}),
                 "\"all\" occurs twice");
}

TEST(TarArchive, HeadersThatLieAreRefused) {
  const std::string archive = build_tar(kTwo);
  for (const size_t position : {size_t{0}, size_t{124}, size_t{148}, size_t{156}, size_t{257}, size_t{500}}) {
    std::string bytes = archive;
    bytes[position] = static_cast<char>(bytes[position] ^ 1);
    expect_refused(bytes, "another checksum");
  }
  std::string foreign = archive;
  foreign.replace(257, 5, "other");
  seal_tar_header(foreign, 0);
  expect_refused(foreign, "no kind of tar");
  expect_refused(std::string(2048, 'x'), "checksum");
  expect_refused(archive + archive, "bytes behind the archive's end");
  expect_refused(tar_member(kTwo[0]) + std::string(512, '\0') + tar_member(kTwo[1]) + tar_end(),
                 "bytes behind");
  expect_refused(build_tar(Parts{{"a", "x"}, {"x", pax_record("path", "b"), 'x'}}),
                 "ends behind an extension");
  expect_refused(build_tar(Parts{{"l", std::string("b\0", 2), 'L', kGnu}}), "ends behind an extension");
}

TEST(TarArchive, ExtensionsThatDisagreeAreRefused) {
  const TarPart name{"l", std::string("long\0", 5), 'L', kGnu}, pax{"x", pax_record("path", "b"), 'x'},
      file{"a", "x"};
  expect_refused(build_tar(Parts{name, name, file}), "two long names");
  expect_refused(build_tar(Parts{name, pax, file}), "two long names");
  expect_refused(build_tar(Parts{pax, pax, file}), "two long names");
  expect_refused(build_tar(Parts{pax, name, file}), "two long names");
  expect_refused(build_tar(Parts{{"l", "long", 'L', kGnu}, file}), "without its end");
  expect_refused(build_tar(Parts{{"l", "", 'L', kGnu}, file}), "without its end");
  const std::string twice = pax_record("path", "a") + pax_record("path", "b");
  expect_refused(build_tar(Parts{{"x", twice, 'x'}, file}), "two values of path");
  for (const std::string damaged :
       {"9 path=a", "99 path=a\n", "path=a\n", "0 path=a\n", " path=a\n", "x path=a\n", "10 path=ab\n",
        "5 ab\n", "99999999999999999999 path=a\n", "3 \n"})
    expect_refused(build_tar(Parts{{"x", damaged, 'x'}, file}), "damaged pax header");
}

TEST(TarArchive, NoSingleByteMakesItReadElsewhere) {
  const std::string whole = build_tar(
      Parts{{"x", pax_record("path", "long") + pax_record("size", "3"), 'x'}, {"a", "abc"}, {"b", "c"}});
  for (size_t position = 0; position < whole.size(); ++position)
    for (const int change : {0x01, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[position] = static_cast<char>(bytes[position] ^ change);
      if (position % 1024 < 512 && position < 2560) seal_tar_header(bytes, position / 512 * 512);
      try {
        for (const TarEntry& entry : read(bytes)) {
          const auto* begin = reinterpret_cast<const char*>(entry.bytes.data());
          ASSERT_TRUE(begin >= bytes.data() && begin + entry.bytes.size() <= bytes.data() + bytes.size());
        }
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ExitCode::data) << error.what();
      }
    }
}

}  // namespace
}  // namespace surgery
