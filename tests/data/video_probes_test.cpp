#include "data/video_probes.h"

#include <gtest/gtest.h>

#include "storage/atomic_file.h"
#include "storage/test_folder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

/// As VideoProbes writes it, of a file as it lies there.
std::string line_of(const fs::path& file,
                    const std::string& numbers = "1920\t1080\t29.97\t12.345\t370\t90\t1.25") {
  return fmt::format("{}\t{}\t{}\t{}\n", fs::absolute(file).string(), fs::file_size(file),
                     fs::last_write_time(file).time_since_epoch().count(), numbers);
}

TEST(VideoProbes, AreKeptUntilTheFileChanges) {
  const TestFolder folder;
  const fs::path video = folder / "a clip.mp4", kept = folder / "probes.tsv";
  write_file(video, "frames");
  VideoProbes first;
  EXPECT_FALSE(first.find(video));
  EXPECT_TRUE(first.read_lines(line_of(video)));
  first.write(kept);

  VideoProbes second;
  second.read(kept);
  const auto found = second.find(video);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->width, 1920);
  EXPECT_EQ(found->height, 1080);
  EXPECT_EQ(found->fps, 29.97);
  EXPECT_EQ(found->duration_seconds, 12.345);
  EXPECT_EQ(found->frames, 370);
  EXPECT_EQ(found->rotation, 90);
  EXPECT_EQ(found->pixel_aspect, 1.25);
  EXPECT_EQ(second.probe(video).width, 1920) << "opened, though it is no video";
  EXPECT_FALSE(second.find(folder / "another.mp4"));
  EXPECT_EQ(second.take_new_lines(), "") << "what was read is not new";

  const auto time = fs::last_write_time(video);
  fs::last_write_time(video, time + std::chrono::seconds(1));
  EXPECT_FALSE(second.find(video)) << "written again";
  fs::last_write_time(video, time);
  EXPECT_TRUE(second.find(video));
  write_file(video, "more frames");
  fs::last_write_time(video, time);
  EXPECT_FALSE(second.find(video)) << "of another size";
  fs::remove(video);
  EXPECT_FALSE(second.find(video));
}

TEST(VideoProbes, PassOverWhatIsNoProbe) {
  const TestFolder folder;
  const fs::path video = folder / "clip.mp4", kept = folder / "probes.tsv";
  write_file(video, "frames");
  VideoProbes probes;
  probes.read(kept);
  const std::string line = line_of(video);
  EXPECT_FALSE(probes.read_lines(line.substr(0, line.size() - 1))) << "torn";
  for (size_t tab = line.find('\t'); tab != std::string::npos; tab = line.find('\t', tab + 1)) {
    EXPECT_FALSE(probes.read_lines(line.substr(0, tab) + "\n"));
    EXPECT_FALSE(probes.read_lines(line.substr(0, tab) + "\tx" + line.substr(tab)));
  }
  for (const char* numbers :
       {"0\t1080\t30\t1\t1\t0\t1", "1920\t-1\t30\t1\t1\t0\t1", "1920\t1080\tnan\t1\t1\t0\t1",
        "1920\t1080\t30\tinf\t1\t0\t1", "1920\t1080\t30\t1\t-1\t0\t1", "1920\t1080\t30\t1\t1\tx\t1",
        "1920\t1080\t30\t1\t1\t0\t0"})
    EXPECT_FALSE(probes.read_lines(line_of(video, numbers))) << numbers;
  EXPECT_TRUE(probes.empty());
  write_file(kept, "surgery-probes-0\n" + line);
  probes.read(kept);
  EXPECT_TRUE(probes.empty()) << "of another release";
  EXPECT_TRUE(probes.read_lines("\n" + line)) << "what follows such a line counts";
}

}  // namespace
}  // namespace surgery
