#include "storage/zip_archive.h"

#include <gtest/gtest.h>

#include <functional>

#include "test_folder.h"
#include "torch_archive.h"

namespace surgery {
namespace {

std::vector<ZipEntry> read(const std::string& bytes) {
  return read_zip(std::as_bytes(std::span(bytes)), "a.pth");
}
void expect_refused(const std::string& bytes, const std::string& message) {
  expect_error(ExitCode::data, message, [&] { read(bytes); });
}
std::string text_of(const ZipEntry& entry) {
  return {reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()};
}
/// The archive with a number written over.
std::string patched(ZipArchive zip, size_t position, uint64_t value, size_t width) {
  zip.bytes.replace(position, width, little(value, width));
  return zip.bytes;
}

const std::vector<ZipPart> kTwo{{"a/one", "first"}, {"a/two", "second"}};

TEST(ZipArchive, EntriesComeBackWhateverTheRecords) {
  for (const bool zip64 : {false, true})
    for (const bool wide : {false, true}) {
      std::vector<ZipPart> parts = kTwo;
      parts.push_back({"a/empty", "", 1 << 11});
      parts.push_back({"a/plain", "sizes in front", 0, 0, "", 14});
      for (ZipPart& part : parts) part.wide = wide;
      const ZipArchive zip = build_zip(parts, zip64);
      const std::vector<ZipEntry> entries = read(zip.bytes);
      ASSERT_EQ(entries.size(), parts.size());
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(entries[i].name, parts[i].name);
        EXPECT_EQ(text_of(entries[i]), parts[i].bytes);
      }
    }
  EXPECT_TRUE(read(build_zip({}, true).bytes).empty());
}

TEST(ZipArchive, ItsDirectoryMayNameWidePlacesOnly) {
  ZipArchive zip = build_zip(kTwo);
  zip.bytes.replace(zip.end + 8, 12,
                    std::string(12, '\xff'));  // counts, size and place: see the zip64 record
  EXPECT_EQ(read(zip.bytes).size(), 2u);
  EXPECT_EQ(read(patched(zip, zip.end + 12, 0xFFFFFFFF, 4)).size(), 2u);
}

TEST(ZipArchive, TruncatedAnywhereIsRefused) {
  for (const bool zip64 : {false, true}) {
    const std::string whole = build_zip(kTwo, zip64).bytes;
    for (size_t length = 0; length < whole.size(); ++length)
      expect_refused(whole.substr(0, length), "a.pth: ");
    expect_refused(whole + "x", "no zip directory at its end");
    expect_refused("x" + whole, "not where it should be");
  }
}

TEST(ZipArchive, WhatCannotBeMappedIsRefused) {
  ZipPart bomb{"a/bomb", "\x4b\x4c\x04\x02"};  // deflated "aaaaaaaa..."
  bomb.method = 8;
  bomb.size = 1'000'000'000;
  expect_refused(build_zip({bomb}).bytes, "is compressed");
  const ZipArchive stored = build_zip(kTwo);
  expect_refused(patched(stored, stored.central[0] + 24, 4'000, 4),
                 "is compressed");  // another unpacked size
  expect_refused(patched(stored, stored.central[1] + 10, 12, 2), "\"a/two\" is compressed");
  for (const int bit : {0, 6, 13}) {
    ZipPart secret{"a/one", "first"};
    secret.flags = static_cast<uint16_t>(1 << bit);
    expect_refused(build_zip({secret}).bytes, "is encrypted");
  }
  expect_refused(patched(stored, stored.central[0] + 8, 1 << 5, 2), "zip flags");
}

TEST(ZipArchive, PartsOfSeveralDisksAreRefused) {
  const ZipArchive zip = build_zip(kTwo);
  expect_refused(patched(zip, zip.end + 4, 1, 2), "one part of");
  expect_refused(patched(zip, zip.end + 6, 1, 2), "one part of");
  expect_refused(patched(zip, zip.end + 8, 1, 2), "one part of");
  expect_refused(patched(zip, zip.end - 20 + 4, 1, 4), "one part of");
  expect_refused(patched(zip, zip.end - 20 + 16, 2, 4), "one part of");
  expect_refused(patched(zip, zip.end - 76 + 16, 1, 4), "one part of");
  expect_refused(patched(zip, zip.central[0] + 34, 1, 2), "lies on another disk");
}

TEST(ZipArchive, EntriesMustNotShareBytesOrNames) {
  expect_refused(build_zip({kTwo[0], kTwo[1], kTwo[0]}).bytes, "\"a/one\" occurs twice");
  // Two names for one place, and an entry within another's content.
  const ZipArchive zip = build_zip(kTwo);
  const ZipArchive inner = build_zip({{"a/two", "second"}});
  std::vector<ZipPart> nested{{"a/one", inner.bytes.substr(0, inner.directory)}, {"a/two", "second"}};
  nested[1].begin = static_cast<int64_t>(build_zip(nested).contents[0]);
  expect_refused(build_zip(nested).bytes, "overlap");
  expect_refused(patched(zip, zip.central[1] + 42, 0, 4), "described differently");
}

TEST(ZipArchive, PlacesOutsideAreRefused) {
  const ZipArchive zip = build_zip(kTwo);
  for (const uint64_t place :
       {uint64_t{7}, uint64_t{zip.directory}, uint64_t{zip.bytes.size()}, uint64_t{0xFFFFFFF0}})
    expect_refused(patched(zip, zip.central[0] + 42, place, 4), "is not where");
  for (const uint64_t size : {uint64_t{1000}, uint64_t{0x7FFFFFFF}}) {
    ZipPart part{"a/one", "first"};
    part.size = static_cast<int64_t>(size);
    expect_refused(build_zip({part}).bytes, "leaves the file");
  }
  ZipPart wide{"a/one", "first"};
  wide.wide = true;
  wide.size = INT64_MAX;
  expect_refused(build_zip({wide}).bytes, "leaves the file");
  wide.size = -1;
  wide.begin = INT64_MAX;
  expect_refused(build_zip({wide}).bytes, "is not where");
}

TEST(ZipArchive, HeadersMustAgree) {
  ZipPart other = kTwo[0];
  other.local_name = "a/own";
  expect_refused(build_zip({other}).bytes, "described differently");
  ZipPart size = kTwo[0];
  size.local_size = 4;
  expect_refused(build_zip({size}).bytes, "described differently");
  size.local_size = 5;
  EXPECT_EQ(read(build_zip({size}).bytes).size(), 1u);
  const ZipArchive zip = build_zip(kTwo);
  expect_refused(patched(zip, zip.headers[0] + 8, 8, 2), "described differently");
  expect_refused(patched(zip, zip.headers[0] + 6, 0, 2), "described differently");
}

TEST(ZipArchive, DirectoriesThatLieAreRefused) {
  const ZipArchive zip = build_zip(kTwo, false), wide = build_zip(kTwo, true);
  expect_refused(build_zip(kTwo, false, 65534).bytes, "cannot hold 65534 entries");
  expect_refused(build_zip(kTwo, true, 1'000'000'000'000'000).bytes, "disagree");
  ZipArchive huge = wide;
  huge.bytes.replace(huge.end + 8, 4, "\xff\xff\xff\xff");
  huge.bytes.replace(huge.end - 76 + 24, 16, little(1ull << 60, 8) + little(1ull << 60, 8));
  expect_refused(huge.bytes, "cannot hold 1152921504606846976 entries");
  expect_refused(build_zip(kTwo, false, 1).bytes, "foreign bytes in its zip directory");
  expect_refused(build_zip(kTwo, false, 3).bytes, "zip directory");
  expect_refused(patched(zip, zip.end + 12, 1, 4), "not where it should be");
  expect_refused(patched(zip, zip.end + 16, 1, 4), "not where it should be");
  expect_refused(patched(zip, zip.end + 16, 0xFFFFFFF0, 4), "not where it should be");
  expect_refused(patched(zip, zip.end + 20, 1, 2), "comment");
  expect_refused(patched(zip, zip.directory, 0, 4), "damaged at byte");
  expect_refused(patched(zip, zip.central[1] + 28, 60000, 2), "damaged at byte");
  expect_refused(patched(zip, zip.central[1] + 32, 1, 2), "damaged at byte");
  expect_refused(patched(wide, wide.end - 20 + 8, wide.bytes.size(), 8), "zip64 end record");
  expect_refused(patched(wide, wide.end - 20 + 8, UINT64_MAX, 8), "zip64 end record");
  expect_refused(patched(wide, wide.end - 76 + 4, 45, 8), "zip64 end record");
  expect_refused(patched(wide, wide.end - 76 + 48, 1, 8), "disagree");
  expect_refused(patched(wide, wide.end - 76 + 40, 1, 8), "disagree");
}

TEST(ZipArchive, NamesAreTextAndExtraFieldsAreWhole) {
  expect_refused(build_zip({{"", "x"}}).bytes, "the name of the zip entry");
  expect_refused(build_zip({{std::string("a\0b", 3), "x"}}).bytes, "the name of the zip entry");
  expect_refused(build_zip({{"a/\xff", "x"}}).bytes, "the name of the zip entry");
  expect_refused(build_zip({{std::string(1025, 'n'), "x"}}).bytes, "the name of the zip entry");
  ZipPart part{"a/one", "first"};
  part.wide = true;
  const ZipArchive zip = build_zip({part});
  const size_t extra = zip.central[0] + 46 + part.name.size();
  expect_refused(patched(zip, extra + 2, 16, 2), "truncated");
  expect_refused(patched(zip, extra + 2, 60, 2), "damaged extra field");
  ZipArchive twice = zip;
  twice.bytes.replace(extra + 2, 26,
                      little(8, 2) + little(5, 8) + little(1, 2) + little(0, 2) + little(0, 12));
  expect_refused(twice.bytes, "");
}

TEST(ZipArchive, NoSingleByteMakesItReadElsewhere) {
  const std::string whole = build_zip(kTwo).bytes;
  for (size_t position = 0; position < whole.size(); ++position)
    for (const int change : {0x01, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[position] = static_cast<char>(bytes[position] ^ change);
      try {
        for (const ZipEntry& entry : read(bytes)) {
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
