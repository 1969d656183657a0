#include "data/clip_window.h"

#include <gtest/gtest.h>

#include "data/pixels.h"
#include "test_clips.h"

namespace surgery {
namespace {

TEST(ClipWindow, CausalLengthsAreOneAndFourMore) {
  EXPECT_EQ(largest_causal_length(0), 0);
  EXPECT_EQ(largest_causal_length(1), 1);
  EXPECT_EQ(largest_causal_length(4), 1);
  EXPECT_EQ(largest_causal_length(84), 81);
  EXPECT_TRUE(is_causal_length(81));
  EXPECT_FALSE(is_causal_length(80));
  EXPECT_FALSE(is_causal_length(-3));
}

TEST(ClipWindow, TheCropHasTheAskedAspectAndTheSameCentre) {
  // 1280x720 to 480x320 (3:2): 1080 columns, 100 on each side
  EXPECT_EQ(covering_crop({0, 1280, 0, 720}, 1.0, 480, 320), (Box{100, 1180, 0, 720}));
  // upright source, wide target: rows are cut
  EXPECT_EQ(covering_crop({0, 720, 0, 1280}, 1.0, 480, 320), (Box{0, 720, 400, 880}));
  EXPECT_EQ(covering_crop({0, 832, 0, 480}, 1.0, 832, 480), (Box{0, 832, 0, 480}));
}

TEST(ClipWindow, CropOffsetsAreEven) {
  const Box crop = covering_crop({0, 103, 0, 50}, 1.0, 50, 50);
  EXPECT_EQ(crop.width(), 50);
  EXPECT_EQ(crop.x0 % 2, 0);
}

TEST(ClipWindow, WidePixelsNeedFewerColumns) {
  // pixels twice as wide as high: a square on screen is half as many columns as rows
  EXPECT_EQ(covering_crop({0, 100, 0, 100}, 2.0, 64, 64), (Box{24, 74, 0, 100}));
}

TEST(ClipWindow, DisplayMatricesTurnIntoOrientations) {
  EXPECT_EQ(orientation_of(1, 0, 0, 1), (Orientation{}));
  EXPECT_EQ(orientation_of(0, 1, -1, 0).clockwise_degrees(), 90);
  EXPECT_EQ(orientation_of(-1, 0, 0, -1).clockwise_degrees(), 180);
  EXPECT_EQ(orientation_of(0, -1, 1, 0).clockwise_degrees(), 270);
}

TEST(ClipWindow, ADisplayedBoxIsFoundInTheStoredPicture) {
  // Stored 40 wide, 30 high, shown turned clockwise as 30 x 40: the stored left bottom corner comes to the
  // top left.
  const Orientation clockwise = orientation_of(0, 1, -1, 0);
  EXPECT_EQ(to_stored({0, 10, 0, 5}, clockwise, 40, 30), (Box{0, 5, 20, 30}));
  EXPECT_EQ(to_stored({0, 30, 0, 40}, clockwise, 40, 30), (Box{0, 40, 0, 30}));
}

TEST(Pixels, BytesAndUnitRangeConvertBothWays) {
  const at::Tensor frames =
      at::arange(2 * 4 * 8 * 3, at::kLong).remainder(256).to(at::kByte).view({2, 4, 8, 3});
  const at::Tensor video = frames_to_video(frames);
  EXPECT_EQ(video.sizes().vec(), (std::vector<int64_t>{1, 3, 2, 4, 8}));
  EXPECT_TRUE(at::equal(video_to_frames(video), frames));
  EXPECT_EQ(frames_to_video(at::full({1, 1, 1, 3}, 255, at::kByte)).max().item<float>(), 1.0f);
  EXPECT_EQ(frames_to_video(at::full({1, 1, 1, 3}, 0, at::kByte)).min().item<float>(), -1.0f);
  // channel, not position, is the second axis
  EXPECT_EQ(video[0][1][0][0][0].item<float>(), frames[0][0][0][1].item<float>() / 127.5f - 1.0f);
}

TEST(Pixels, ValuesOutsideTheRangeAreClampedAndNanIsBlack) {
  const at::Tensor video = at::tensor({-3.0f, 3.0f, NAN}).view({3, 1, 1, 1});
  EXPECT_TRUE(at::equal(video_to_frames(video), at::tensor({0, 255, 0}, at::kByte).view({1, 1, 1, 3})));
  expect_failure([] { frames_to_video(at::zeros({3, 4, 4}, at::kByte)); }, ExitCode::data, {"[T, H, W, 3]"});
  expect_failure([] { video_to_frames(at::zeros({2, 3, 1, 4, 4})); }, ExitCode::data, {"[1, 3, T, H, W]"});
}

}  // namespace
}  // namespace surgery
