#include "storage/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "storage/strict_json.h"
#include "test_folder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

TEST(AtomicFile, AppearsWholeOrNotAtAll) {
  const TestFolder folder;
  {
    AtomicFile file(folder / "a.txt");
    file.write(std::string_view("half"));
    EXPECT_FALSE(fs::exists(folder / "a.txt"));
  }
  EXPECT_EQ(folder.count(), 0u) << "an uncommitted file left something behind";
  write_file(folder / "a.txt", "first");
  {
    AtomicFile file(folder / "a.txt");
    file.write(std::string_view("second"));
    EXPECT_EQ(read_file(folder / "a.txt"), "first");
    file.commit();
  }
  EXPECT_EQ(read_file(folder / "a.txt"), "second");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(AtomicFolder, AppearsWholeOrNotAtAll) {
  const TestFolder folder;
  {
    const AtomicFolder model(folder / "above/model");
    write_raw(model.temporary() / "half", "");
    EXPECT_FALSE(fs::exists(folder / "above/model"));
  }
  EXPECT_TRUE(fs::is_empty(folder / "above")) << "an uncommitted folder left something behind";
  for (const std::string content : {"old", "new"}) {
    AtomicFolder model(folder / "model");
    fs::create_directory(model.temporary() / "part");
    write_raw(model.temporary() / "part" / content, content);
    if (content == "new") {
      EXPECT_EQ(read_raw(folder / "model/part/old"), "old");
    }
    model.commit();
  }
  EXPECT_EQ(read_raw(folder / "model/part/new"), "new");
  EXPECT_FALSE(fs::exists(folder / "model/part/old")) << "what was there is replaced, not mixed with";
  EXPECT_EQ(folder.count(), 2u);
}

TEST(AtomicFolder, ThatCannotBeFlushedReplacesNothing) {
  const TestFolder folder;
  fs::create_directory(folder / "model");
  write_raw(folder / "model/a", "old");
  expect_error(ExitCode::io, "cannot be read", [&] { commit_folder(folder / "absent", folder / "model"); });
  EXPECT_EQ(read_raw(folder / "model/a"), "old");
  remove_folder(folder / "model");
  EXPECT_EQ(folder.count(), 0u);
}

TEST(AtomicFile, TemporariesAreUniqueHiddenAndInTheSameFolder) {
  const fs::path path = "some/folder/video.mp4";
  const fs::path one = temporary_name(path), two = temporary_name(path);
  EXPECT_NE(one, two);
  EXPECT_EQ(one.parent_path(), path.parent_path());
  EXPECT_EQ(one.extension(), ".mp4");
  EXPECT_EQ(one.filename().string()[0], '.');
}

TEST(AtomicFile, FailuresAreInputOutputErrors) {
  const TestFolder folder;
  expect_error(ExitCode::io, "cannot be written", [&] { write_file(folder / "no/a.txt", "x"); });
  expect_error(ExitCode::io, "cannot be read", [&] { read_file(folder / "none"); });
  expect_error(ExitCode::io, "reading failed", [&] { read_file(folder.path()); });
  expect_error(ExitCode::io, "cannot be read", [&] { hash_file(folder / "none"); });
  write_raw(folder / "big", std::string(11, 'x'));
  expect_error(ExitCode::io, "larger than 10 bytes", [&] { read_file(folder / "big", 10); });
  EXPECT_EQ(read_file(folder / "big", 11).size(), 11u);
}

TEST(AtomicFile, AFullDiskIsReported) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const TestFolder folder;
  fs::create_symlink("/dev/full", folder / "full");
  const fs::path target = folder / "a.txt";
  // The temporary of the next call, made in advance as a link to a device that is always full.
  const std::string next = temporary_name(target).filename().string();
  const size_t digits = next.find("-a.txt");
  const size_t dash = next.rfind('-', digits - 1);
  const uint64_t number = std::stoull(next.substr(dash + 1, digits - dash - 1)) + 1;
  fs::create_symlink("/dev/full", folder / (next.substr(0, dash + 1) + std::to_string(number) + "-a.txt"));
  expect_error(ExitCode::io, "No space left", [&] { write_file(target, "x"); });
  EXPECT_FALSE(fs::exists(target));
}

TEST(AtomicFile, DamagedFilesAreSetAsideNotDeleted) {
  const TestFolder folder;
  for (const char* content : {"one", "two", "three"}) {
    write_raw(folder / "a.h5", content);
    set_aside(folder / "a.h5", "checksum differs");
    EXPECT_FALSE(fs::exists(folder / "a.h5"));
  }
  EXPECT_EQ(read_raw(folder / "a.h5.bad"), "one");
  EXPECT_EQ(read_raw(folder / "a.h5.bad.1"), "two");
  EXPECT_EQ(read_raw(folder / "a.h5.bad.2"), "three");
  expect_error(ExitCode::io, "cannot be set aside", [&] { set_aside(folder / "a.h5", "gone"); });
}

TEST(AtomicFile, OnlyTemporariesOfDeadProcessesAreRemoved) {
  const TestFolder folder;
  const pid_t child = fork();
  if (child == 0) {  // a process that dies while it writes a file and a folder
    write_raw(temporary_name(folder / "dead.h5"), "half");
    fs::create_directory(temporary_name(folder / "step-000001"));
    _exit(0);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const fs::path mine = temporary_name(folder / "mine.h5");
  write_raw(mine, "being written");
  write_raw(folder / ".tmp-otherhost-1-0-theirs.h5", "being written elsewhere");
  write_raw(folder / ".tmp-notours", "x");
  write_raw(folder / "kept.h5", "x");
  EXPECT_EQ(folder.count(), 6u);
  remove_stale_temporaries(folder.path());
  EXPECT_EQ(folder.count(), 4u);
  EXPECT_TRUE(fs::exists(mine));
  const fs::path foreign = folder / ".tmp-otherhost-1-0-theirs.h5";
  EXPECT_TRUE(fs::exists(foreign));
  fs::last_write_time(foreign, fs::file_time_type::clock::now() - std::chrono::hours(25));
  remove_stale_temporaries(folder.path());
  EXPECT_FALSE(fs::exists(foreign));
  EXPECT_NO_THROW(remove_stale_temporaries(folder / "none"));
}

TEST(Hash, IsXxh3Of128Bits) {
  EXPECT_EQ(hash_bytes(""), "99aa06d3014798d86001c324468d497f");  // published test vector
  const TestFolder folder;
  const std::string content(3'000'001, 'q');
  write_raw(folder / "a", content);
  EXPECT_EQ(hash_file(folder / "a"), hash_bytes(content));
  EXPECT_NE(hash_bytes("a"), hash_bytes("b"));
}

TEST(StrictJson, RefusesWhatReadersWouldDisagreeAbout) {
  EXPECT_EQ(parse_strict_json(R"({"a":{"b":1},"c":{"b":2}})", "x")["c"]["b"], 2);
  expect_error(ExitCode::data, "x: key \"b\" occurs twice",
               [] { parse_strict_json(R"({"a":{"b":1,"b":2}})", "x"); });
  expect_error(ExitCode::data, "occurs twice", [] { parse_strict_json(R"({"a":1,"\u0061":2})", "x"); });
  expect_error(ExitCode::data, "nested deeper than 2", [] { parse_strict_json("[[[]]]", "x", 2); });
  expect_error(ExitCode::data, "not valid JSON", [] { parse_strict_json("{\"a\":NaN}", "x"); });
  expect_error(ExitCode::data, "not valid JSON", [] { parse_strict_json("{} {}", "x"); });
  expect_error(ExitCode::data, "nested deeper", [] { parse_strict_json(std::string(100000, '['), "x"); });
}

}  // namespace
}  // namespace surgery
