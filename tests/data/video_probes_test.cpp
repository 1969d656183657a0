#include "data/video_probes.h"

#include <gtest/gtest.h>

#include <fstream>

#include "storage/atomic_file.h"
#include "storage/test_folder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

const VideoInfo kInfo{.width = 1920,
                      .height = 1080,
                      .fps = 30000.0 / 1001,
                      .duration_seconds = 12.345,
                      .frames = 370,
                      .rotation = 90,
                      .pixel_aspect = 4.0 / 3,
                      .container = {},
                      .codec = {},
                      .pixel_format = {},
                      .comment = {}};

void expect_info(const std::optional<VideoInfo>& found) {
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->width, kInfo.width);
  EXPECT_EQ(found->height, kInfo.height);
  EXPECT_EQ(found->fps, kInfo.fps);
  EXPECT_EQ(found->duration_seconds, kInfo.duration_seconds);
  EXPECT_EQ(found->frames, kInfo.frames);
  EXPECT_EQ(found->rotation, kInfo.rotation);
  EXPECT_EQ(found->pixel_aspect, kInfo.pixel_aspect);
}

TEST(VideoProbes, AreKeptUntilTheFileChanges) {
  const TestFolder folder;
  const fs::path video = folder / "a clip.mp4", kept = folder / "probes.tsv";
  write_file(video, "frames");
  VideoProbes first;
  EXPECT_FALSE(first.find(video));
  first.add(video, kInfo);
  expect_info(first.find(video));
  first.write(kept);

  VideoProbes second;
  second.read(kept);
  expect_info(second.find(video));
  EXPECT_FALSE(second.find(folder / "another.mp4"));
  EXPECT_EQ(second.take_new_lines(), "") << "what was read is not new";
  fs::last_write_time(video, fs::last_write_time(video) + std::chrono::seconds(1));
  EXPECT_FALSE(second.find(video)) << "written again";
  write_file(video, "more frames");
  EXPECT_FALSE(second.find(video));
  fs::remove(video);
  EXPECT_FALSE(second.find(video));
}

TEST(VideoProbes, AreToldByLines) {
  const TestFolder folder;
  const fs::path video = folder / "clip.mp4";
  write_file(video, "frames");
  VideoProbes one, other;
  one.add(video, kInfo);
  other.read_lines(one.take_new_lines());
  EXPECT_EQ(one.take_new_lines(), "");
  expect_info(other.find(video));
}

TEST(VideoProbes, PassOverWhatIsNoProbe) {
  const TestFolder folder;
  const fs::path video = folder / "clip.mp4", kept = folder / "probes.tsv";
  write_file(video, "frames");
  VideoProbes probes;
  probes.add(video, kInfo);
  const std::string line = probes.take_new_lines();
  VideoProbes torn;
  for (size_t length = 0; length < line.size(); ++length) torn.read_lines(line.substr(0, length));
  torn.read_lines("a\tb\tc\n\n\t\t\t\t\t\t\t\t\t\nclip.mp4\t1\t2\t-5\t0\tnan\t0\t0\t0\t0\n");
  EXPECT_FALSE(torn.find(video));
  VideoProbes none;
  none.read(kept);
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace surgery
