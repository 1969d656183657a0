#include "data/video.h"

#include "test_clips.h"

namespace surgery {
namespace {

class Video : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    SKIP_WITHOUT_VIDEO();
  }
};

TEST_F(Video, WhatIsWrittenIsReadBack) {
  const at::Tensor frames = colour_frames(17, 128, 160);
  const std::string encoder = write_mp4(file("a.mp4"), frames);
  EXPECT_FALSE(encoder.empty());
  EXPECT_EQ(listing(), std::vector<std::string>{"a.mp4"});
  const VideoInfo info = probe_video(file("a.mp4"));
  EXPECT_EQ(info.width, 160);
  EXPECT_EQ(info.height, 128);
  EXPECT_NEAR(info.fps, 16, 1e-6);
  EXPECT_EQ(info.frames, 17);
  EXPECT_NEAR(info.duration_seconds, 17.0 / 16, 1e-3);
  const at::Tensor read = read_clip(file("a.mp4"), clip_of(17, 128, 160));
  EXPECT_EQ(read.sizes(), frames.sizes());
  EXPECT_GT(psnr(read, frames), encoder == "mpeg4" ? 32 : 40);
}

TEST_F(Video, ACommentIsReadBack) {
  for (const char* name : {"a.mp4", "a.webm"}) {
    write_mp4(file(name), colour_frames(5, 64, 96), {.comment = "1a2b é"});
    EXPECT_EQ(probe_video(file(name)).comment, "1a2b é") << name;
  }
  write_mp4(file("b.mp4"), colour_frames(5, 64, 96));
  EXPECT_EQ(probe_video(file("b.mp4")).comment, "");
}

TEST_F(Video, ColoursSurvive) {
  at::Tensor frames = at::zeros({5, 64, 64, 3}, at::kByte);
  const std::vector<std::vector<int64_t>> colours{
      {255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}, {128, 128, 128}};
  for (int64_t t = 0; t < 5; ++t)
    frames[t].copy_(at::tensor(colours[static_cast<size_t>(t)], at::kByte).expand({64, 64, 3}));
  write_mp4(file("a.mp4"), frames);
  const at::Tensor read = read_clip(file("a.mp4"), clip_of(5, 64, 64));
  for (int64_t t = 0; t < 5; ++t) {
    const at::Tensor difference = (read[t][32][32].to(at::kInt) - frames[t][32][32].to(at::kInt)).abs();
    EXPECT_LE(difference.max().item<int>(), 6) << "frame " << t << ": " << read[t][32][32];
  }
}

TEST_F(Video, EqualFramesGiveEqualBytes) {
  const at::Tensor frames = colour_frames(9, 64, 96);
  write_mp4(file("first.mp4"), frames);
  for (int attempt = 0; attempt < 10; ++attempt) {  // between them the heap changes, and must not matter
    write_mp4(file("next.mp4"), frames);
    ASSERT_TRUE(slurp(file("first.mp4")) == slurp(file("next.mp4"))) << "attempt " << attempt;
  }
}

TEST_F(Video, FramesAreTakenByDisplayTimeAtAnyRate) {
  // The frame on screen at k / 16 s, by hand: floor(k * fps / 16).
  const std::vector<std::pair<double, std::vector<int64_t>>> cases{
      {24, {0, 1, 3, 4, 6, 7, 9, 10, 12}},
      {25, {0, 1, 3, 4, 6, 7, 9, 10, 12}},
      {30000.0 / 1001, {0, 1, 3, 5, 7, 9, 11, 13, 14}},
      {60, {0, 3, 7, 11, 15, 18, 22, 26, 30}},
      {12, {0, 0, 1, 2, 3, 3, 4, 5, 6}},
      {16, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
      {15.95, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
      {8, {0, 0, 1, 1, 2, 2, 3, 3, 4}}};
  for (const auto& [fps, expected] : cases) {
    WriteSpec spec;
    spec.fps = fps;
    write_frames(file("a.mp4"), numbered_frames(40, 64, 96), spec);
    EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), clip_of(9, 64, 96))), expected) << fps << " fps";
  }
}

TEST_F(Video, VariableRateFollowsTheTimeStamps) {
  WriteSpec spec;
  spec.fps = 16;
  VideoWriter writer(file("a.mp4"), 64, 96, spec);
  const at::Tensor frames = numbered_frames(6, 64, 96);
  writer.add(frames.slice(0, 0, 2));
  writer.hold(3);  // frame 1 stays for four ticks
  writer.add(frames.slice(0, 2));
  writer.finish();
  EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), clip_of(9, 64, 96))),
            (std::vector<int64_t>{0, 1, 1, 1, 1, 2, 3, 4, 5}));
}

TEST_F(Video, WebmIsReadByDisplayTime) {
  WriteSpec spec;
  spec.fps = 24;
  try {
    write_frames(file("a.webm"), numbered_frames(30, 64, 96), spec);
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ExitCode::usage) << error.what();
    GTEST_SKIP() << "no encoder for webm";
  }
  EXPECT_EQ(numbers_of(read_clip(file("a.webm"), clip_of(9, 64, 96))),
            (std::vector<int64_t>{0, 1, 3, 4, 6, 7, 9, 10, 12}));
}

TEST_F(Video, GifIsReadByDisplayTime) {
  // A gif has few colours, so the frame's number is the place of a white bar.
  at::Tensor frames = at::zeros({20, 64, 96, 3}, at::kByte);
  for (int64_t i = 0; i < 20; ++i) frames[i].slice(1, 4 * i, 4 * i + 4).fill_(255);
  WriteSpec spec;
  spec.fps = 20;
  try {
    write_frames(file("a.gif"), frames, spec);
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ExitCode::usage) << error.what();
    GTEST_SKIP() << "no encoder for gif";
  }
  const at::Tensor clip = read_clip(file("a.gif"), clip_of(9, 64, 96));
  const at::Tensor columns = clip.to(at::kFloat).mean(std::vector<int64_t>{1, 3});
  const at::Tensor places = columns.argmax(1).div(4, "floor");
  EXPECT_TRUE(at::equal(places, at::tensor({0, 1, 2, 3, 5, 6, 7, 8, 10}, at::kLong))) << places;
}

TEST_F(Video, OddSizesAreReadFromGif) {
  try {
    write_frames(file("a.gif"), colour_frames(12, 63, 91), {});
  } catch (const Error&) {
    GTEST_SKIP() << "no gif encoder";
  }
  const VideoInfo info = probe_video(file("a.gif"));
  EXPECT_EQ(info.width, 91);
  EXPECT_EQ(info.height, 63);
  EXPECT_EQ(read_clip(file("a.gif"), clip_of(9, 48, 64)).sizes().vec(), (std::vector<int64_t>{9, 48, 64, 3}));
  EXPECT_EQ(read_clip(file("a.gif"), clip_of(9, 63, 91)).sizes().vec(), (std::vector<int64_t>{9, 63, 91, 3}));
}

TEST_F(Video, AClipIsCroppedToItsAspectAndScaled) {
  // Left and right margins black, the middle square white: a square clip shows only white.
  at::Tensor frames = at::zeros({5, 64, 128, 3}, at::kByte);
  frames.slice(2, 32, 96).fill_(255);
  write_mp4(file("a.mp4"), frames);
  const Clip clip = load_clip(file("a.mp4"), clip_of(5, 32, 32));
  EXPECT_EQ(clip.crop, (Box{32, 96, 0, 64}));
  EXPECT_GT(clip.pixels.slice(2, 1, 31).min().item<int>(), 240);
}

TEST_F(Video, AnAnnotatedCropBoundsTheClip) {
  at::Tensor frames = at::zeros({5, 64, 128, 3}, at::kByte);
  frames.slice(2, 64).fill_(255);
  write_mp4(file("a.mp4"), frames);
  ClipSpec spec = clip_of(5, 32, 32);
  spec.crop = Box{64, 128, 0, 64};
  EXPECT_GT(read_clip(file("a.mp4"), spec).slice(2, 2).min().item<int>(), 240);
  spec.crop = Box{64, 129, 0, 64};
  expect_failure([&] { read_clip(file("a.mp4"), spec); }, ExitCode::data,
                 {"a.mp4", "[64, 129, 0, 64]", "128x64"});
}

TEST_F(Video, RotatedFilesAreReadAsTheyAreDisplayed) {
  // A white left edge, shown turned clockwise, is a white upper edge.
  at::Tensor frames = at::zeros({5, 64, 96, 3}, at::kByte);
  frames.slice(2, 0, 32).fill_(255);
  const auto mean = [](const at::Tensor& part) { return part.to(at::kDouble).mean().item<double>(); };
  for (const int rotation : {90, 180, 270}) {
    WriteSpec spec;
    spec.rotation = rotation;
    write_frames(file("a.mp4"), frames, spec);
    const VideoInfo info = probe_video(file("a.mp4"));
    EXPECT_EQ(info.rotation, rotation);
    const bool upright = rotation != 180;
    EXPECT_EQ(info.width, upright ? 64 : 96);
    EXPECT_EQ(info.height, upright ? 96 : 64);
    const at::Tensor clip = read_clip(file("a.mp4"), clip_of(5, info.height, info.width));
    const at::Tensor white = rotation == 90    ? clip.slice(1, 2, 30)
                             : rotation == 180 ? clip.slice(2, 66, 94)
                                               : clip.slice(1, 66, 94);
    EXPECT_GT(mean(white), 245) << rotation;
    EXPECT_NEAR(mean(clip), 255.0 / 3, 6) << rotation;
  }
}

TEST_F(Video, AClipCanStartLaterAndEndAtItsCut) {
  WriteSpec fast;
  fast.fps = 32;
  write_frames(file("a.mp4"), numbered_frames(200, 64, 96), fast);
  ClipSpec spec = clip_of(5, 64, 96);
  spec.start_seconds = 4.0;  // beyond the point where a jump is cheaper than decoding
  EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), spec)), (std::vector<int64_t>{128, 130, 132, 134, 136}));
  spec.start_seconds = 0;
  spec.cut = FrameRange{101, 111};
  EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), spec)), (std::vector<int64_t>{101, 103, 105, 107, 109}));
  spec.cut = FrameRange{101, 109};
  expect_failure([&] { read_clip(file("a.mp4"), spec); }, ExitCode::data,
                 {"4 frames available", "5 asked for"});
}

TEST_F(Video, AShortFileIsRefusedOrShortened) {
  write_mp4(file("a.mp4"), numbered_frames(14, 64, 96));
  ClipSpec spec = clip_of(17, 64, 96);
  expect_failure([&] { read_clip(file("a.mp4"), spec); }, ExitCode::data,
                 {"a.mp4", "14 frames available at 16 fps", "17 asked for", "ask for 13 or fewer"});
  spec.short_clip = ShortClip::shorten;
  EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), spec)).size(), 13u);
  spec.start_seconds = 100;
  expect_failure([&] { read_clip(file("a.mp4"), spec); }, ExitCode::data, {"0 frames available"});
}

TEST_F(Video, TheLastFrameCountsForItsWholeDuration) {
  WriteSpec slow;
  slow.fps = 8;
  write_frames(file("a.mp4"), numbered_frames(9, 64, 96), slow);  // 9/8 s: 18 frames at 16 fps
  EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), clip_of(17, 64, 96))).back(), 8);
  expect_failure([&] { read_clip(file("a.mp4"), clip_of(21, 64, 96)); }, ExitCode::data,
                 {"18 frames available"});
}

TEST_F(Video, SmallAndSlowSourcesAreAChoice) {
  WriteSpec slow;
  slow.fps = 8;
  write_frames(file("a.mp4"), numbered_frames(9, 64, 96), slow);
  ClipSpec spec = clip_of(5, 128, 192);
  expect_failure([&] { read_clip(file("a.mp4"), spec); }, ExitCode::data, {"96x64", "192x128", "upscaling"});
  spec.small_source = SmallSource::upscale;
  EXPECT_EQ(numbers_of(read_clip(file("a.mp4"), spec)), (std::vector<int64_t>{0, 0, 1, 1, 2}));
  spec.slow_source = SlowSource::refuse;
  expect_failure([&] { read_clip(file("a.mp4"), spec); }, ExitCode::data,
                 {"8.000 frames a second", "repeated"});
}

TEST_F(Video, WrongWishesAreUsageErrors) {
  write_mp4(file("a.mp4"), numbered_frames(9, 64, 96));
  expect_failure([&] { read_clip(file("a.mp4"), clip_of(8, 64, 96)); }, ExitCode::usage, {"4k+1", "5 or 9"});
  expect_failure([&] { read_clip(file("a.mp4"), clip_of(0, 64, 96)); }, ExitCode::usage,
                 {"0 frames", "4k+1"});
  expect_failure([&] { read_clip(file("a.mp4"), clip_of(5, 0, 96)); }, ExitCode::usage, {"96x0"});
  expect_failure([&] { write_mp4(file("a.avi"), numbered_frames(9, 64, 96)); }, ExitCode::usage, {".avi"});
  expect_failure([&] { write_mp4(file("b.mp4"), numbered_frames(9, 63, 96)); }, ExitCode::data, {"even"});
  expect_failure(
      [&] {
        write_mp4(file("b.mp4"), at::zeros({0, 64, 96, 3}, at::kByte));
      },
      ExitCode::data, {"T > 0"});
  expect_failure([&] { write_mp4(file("b.mp4"), at::zeros({1, 64, 96, 3})); }, ExitCode::data, {"uint8"});
  expect_failure([&] { write_mp4(file("none/b.mp4"), numbered_frames(1, 64, 96)); }, ExitCode::io,
                 {"none/b.mp4"});
  EXPECT_EQ(listing(), std::vector<std::string>{"a.mp4"});
}

TEST_F(Video, AnUnfinishedFileLeavesNothing) {
  {
    VideoWriter writer(file("a.mp4"), 64, 96);
    writer.add(numbered_frames(3, 64, 96));
  }
  EXPECT_TRUE(listing().empty());
  VideoWriter writer(file("a.mp4"), 64, 96);
  expect_failure([&] { writer.finish(); }, ExitCode::data, {"zero frames"});
}

TEST_F(Video, BadFilesAreNamedWithTheReason) {
  const auto probe = [&](const std::string& name) { return [this, name] { probe_video(file(name)); }; };
  expect_failure(probe("missing.mp4"), ExitCode::io, {"missing.mp4", "no such video"});
  write("empty.mp4", "");
  expect_failure(probe("empty.mp4"), ExitCode::data, {"empty.mp4", "is empty"});
  write("text.mp4", "This is a text file.\nIt has lines.\n");
  expect_failure(probe("text.mp4"), ExitCode::data, {"text.mp4", "not a readable video"});
  write("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n");
  expect_failure(probe("list.mp4"), ExitCode::data, {"list.mp4", "not a readable video"});
  write("noise.mp4", std::string(5000, '\x5a'));
  expect_failure(probe("noise.mp4"), ExitCode::data, {"noise.mp4"});
  std::filesystem::create_directory(file("folder.mp4"));
  expect_failure(probe("folder.mp4"), ExitCode::data, {"folder.mp4", "not a regular file"});
}

TEST_F(Video, TruncatedFilesAreErrorsWhereverTheyEnd) {
  write_mp4(file("a.mp4"), colour_frames(33, 64, 96));
  const std::string whole = slurp(file("a.mp4"));
  for (int64_t part = 0; part < 20; ++part) {
    write("b.mp4", whole.substr(0, whole.size() * static_cast<size_t>(part) / 20));
    expect_failure([&] { read_clip(file("b.mp4"), clip_of(33, 64, 96)); }, ExitCode::data, {"b.mp4"});
  }
}

TEST_F(Video, AStreamThatEndsEarlyIsAnError) {
  // webm has no index to miss: the frames there are can be read, and must not pass for the whole clip
  try {
    write_frames(file("a.webm"), colour_frames(33, 64, 96), {});
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ExitCode::usage) << error.what();
    GTEST_SKIP() << "no encoder for webm";
  }
  const std::string whole = slurp(file("a.webm"));
  for (const size_t percent : {30u, 60u, 90u}) {
    write("b.webm", whole.substr(0, whole.size() * percent / 100));
    expect_failure([&] { read_clip(file("b.webm"), clip_of(33, 64, 96)); }, ExitCode::data, {"b.webm"});
  }
}

TEST_F(Video, DamagedBytesNeverCrashTheReader) {
  write_mp4(file("a.mp4"), colour_frames(17, 64, 96));
  const std::string whole = slurp(file("a.mp4"));
  int64_t refused = 0;
  for (size_t at = 0; at < whole.size(); at += whole.size() / 60) {
    std::string damaged = whole;
    for (size_t i = at; i < std::min(at + 16, whole.size()); ++i) damaged[i] = static_cast<char>(~damaged[i]);
    write("b.mp4", damaged);
    try {
      EXPECT_EQ(read_clip(file("b.mp4"), clip_of(17, 64, 96)).size(0), 17);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST_F(Video, ManyReadsKeepNoFileOpen) {
  write_mp4(file("a.mp4"), numbered_frames(5, 64, 96));
  const auto open_files = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator{});
  };
  const auto before = open_files();
  for (int i = 0; i < 20; ++i) read_clip(file("a.mp4"), clip_of(5, 64, 96));
  EXPECT_EQ(open_files(), before);
}

TEST(VideoClips, RealFilesAreRead) {
  SKIP_WITHOUT_VIDEO();
  const std::filesystem::path clips =
      std::filesystem::path(SURGERY_SOURCE_DIR) / ".." / "shared" / "data" / "clips";
  if (!std::filesystem::exists(clips)) GTEST_SKIP() << "no real clips beside the sources";
  int64_t read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(clips)) {
    if (entry.path().extension() != ".mp4") continue;
    ClipSpec spec = clip_of(17, 128, 160);
    const Clip clip = load_clip(entry.path(), spec);
    EXPECT_EQ(clip.pixels.sizes().vec(), (std::vector<int64_t>{17, 128, 160, 3})) << entry.path();
    const at::Tensor values = clip.pixels.to(at::kFloat);
    EXPECT_GT(values.std().item<float>(), 10) << entry.path() << ": a picture, not a plane";
    ++read;
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace surgery
