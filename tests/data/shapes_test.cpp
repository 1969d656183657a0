#include "data/shapes.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/errors.h"
#include "data/shapes_score.h"

namespace surgery {
namespace {

TEST(Shapes, TheHeldOutRuleCoversEveryAttributeAndEveryPairStaysSeen) {
  const auto& unseen = shapes_combinations(true);
  ASSERT_EQ(unseen.size(), 32u);
  ASSERT_EQ(shapes_combinations(false).size(), 256u);
  std::set<int> colours, outlines, directions, backgrounds;
  for (const auto& a : unseen) {
    colours.insert(a.colour), outlines.insert(a.outline);
    directions.insert(a.direction), backgrounds.insert(a.background);
  }
  EXPECT_EQ(colours.size(), 6u);
  EXPECT_EQ(outlines.size(), 4u);
  EXPECT_EQ(directions.size(), 4u);
  EXPECT_EQ(backgrounds.size(), 3u);
  std::set<std::pair<int, int>> pairs;
  for (const auto& a : shapes_combinations(false)) pairs.insert({a.colour, a.outline});
  EXPECT_EQ(pairs.size(), 24u);
}

TEST(Shapes, CaptionsNameTheAttributesAndReadBack) {
  EXPECT_EQ(shapes_caption({0, 0, 0, 0}), "a red circle moving left on a black background");
  for (const bool held_out : {false, true})
    for (const auto& a : shapes_combinations(held_out)) EXPECT_EQ(parse_shapes_caption(shapes_caption(a)), a);
  for (const char* other :
       {"", "a cat", "a red circle moving left on a black background!",
        "a red circle moving sideways on a black background", "red circle moving left on a black background"})
    EXPECT_EQ(parse_shapes_caption(other), std::nullopt) << other;
}

TEST(Shapes, SplitsKeepTheUnseenCombinationsApart) {
  std::map<std::string, int> seen;
  for (int64_t i = 0; i < 256; ++i) {
    EXPECT_FALSE(shapes_held_out(shapes_attributes(ShapesSplit::train, i)));
    EXPECT_FALSE(shapes_held_out(shapes_attributes(ShapesSplit::distill, i)));
    EXPECT_TRUE(shapes_held_out(shapes_attributes(ShapesSplit::evaluation, i)));
    ++seen[shapes_caption(shapes_attributes(ShapesSplit::train, i))];
  }
  EXPECT_EQ(seen.size(), 256u) << "256 clips in a row hold every seen combination once";
  EXPECT_EQ(parse_shapes_split("shapes:distill"), ShapesSplit::distill);
  EXPECT_EQ(parse_shapes_split("shapes:other"), std::nullopt);
}

TEST(Shapes, AClipDependsOnSeedSplitAndIndexOnly) {
  const auto clip = shapes_clip(ShapesSplit::train, 3, 7);
  EXPECT_EQ(clip.frames.sizes(), (std::vector<int64_t>{17, 128, 160, 3}));
  EXPECT_TRUE(at::equal(clip.frames, shapes_clip(ShapesSplit::train, 3, 7).frames));
  EXPECT_FALSE(at::equal(clip.frames, shapes_clip(ShapesSplit::train, 3, 8).frames));
  EXPECT_FALSE(at::equal(clip.frames, shapes_clip(ShapesSplit::train, 3 + 256, 7).frames));
}

TEST(Shapes, RefusesSizesThatNoModelTakes) {
  for (const auto& [frames, height] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 128}, {16, 128}, {17, 8}}) {
    try {
      shapes_clip(ShapesSplit::train, 0, 0, frames, height);
      FAIL() << frames << " frames of height " << height;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_NE(std::string(error.what()).find(": ask for"), std::string::npos) << error.what();
    }
  }
}

ShapesScore score_of(const std::function<at::Tensor(const at::Tensor&)>& change, int64_t frames = 17,
                     int64_t height = 128, int64_t width = 160, int64_t step = 1) {
  ShapesScore score;
  for (const auto split : {ShapesSplit::train, ShapesSplit::evaluation}) {
    const int64_t count = split == ShapesSplit::train ? 256 : 32;
    for (int64_t i = 0; i < count; i += step) {
      const auto clip = shapes_clip(split, i, 0, frames, height, width);
      score.add(clip.attributes, read_shapes(change(clip.frames)));
    }
  }
  return score;
}

TEST(Shapes, ARunOfTheSplitsSizeHoldsEveryCombinationOnce) {
  for (const auto split : {ShapesSplit::train, ShapesSplit::distill, ShapesSplit::evaluation}) {
    std::set<std::string> captions;
    for (int64_t i = 0; i < shapes_split_size(split); ++i)
      captions.insert(shapes_caption(shapes_attributes(split, i)));
    EXPECT_EQ(static_cast<int64_t>(captions.size()), shapes_split_size(split));
  }
  EXPECT_EQ(shapes_split_size(ShapesSplit::train) + shapes_split_size(ShapesSplit::evaluation), 288);
}

TEST(ShapesScore, ReadsGroundTruthOfEveryCombination) {
  const auto score = score_of([](const at::Tensor& x) { return x; });
  EXPECT_EQ(score.clips, 288);
  EXPECT_GE(score.clip_share(), 0.99) << score.summary();
}

TEST(ShapesScore, ReadsOtherSizesAndLengths) {
  const auto score = score_of([](const at::Tensor& x) { return x; }, 5, 96, 96, 4);
  EXPECT_GE(score.clip_share(), 0.99) << score.summary();
}

TEST(ShapesScore, BearsNoiseAndBlur) {
  const auto score = score_of(
      [](const at::Tensor& x) {
        const auto blurred =
            at::avg_pool2d(x.permute({0, 3, 1, 2}).to(at::kFloat), {5, 5}, {1, 1}, {2, 2}, false, false);
        const auto noisy = blurred + 8 * random_normal(RandomKey{1, 2}, blurred.sizes());
        return noisy.clamp(0, 255).round().to(at::kByte).permute({0, 2, 3, 1}).contiguous();
      },
      9, 128, 160, 4);
  EXPECT_GE(score.clip_share(), 0.97) << score.summary();
}

TEST(ShapesScore, GivesNothingForEmptyClips) {
  for (const int value : {0, 128, 255}) {
    const auto reading = read_shapes(at::full({17, 128, 160, 3}, value, at::kByte));
    EXPECT_FALSE(reading.background || reading.colour || reading.outline || reading.direction) << value;
  }
  const auto noise = random_uniform(RandomKey{3, 4}, {9, 64, 80, 3}).mul(255).to(at::kByte);
  const auto reading = read_shapes(noise);
  EXPECT_FALSE(reading.outline.has_value());
  EXPECT_FALSE(reading.direction.has_value());
}

TEST(ShapesScore, AStillObjectHasNoDirection) {
  auto frames = shapes_clip(ShapesSplit::train, 0).frames;
  frames = frames.narrow(0, 8, 1).expand({17, -1, -1, -1}).contiguous();
  const auto reading = read_shapes(frames);
  EXPECT_TRUE(reading.colour.has_value());
  EXPECT_FALSE(reading.direction.has_value());
}

TEST(ShapesScore, CountsWhatWasAskedFor) {
  ShapesScore score;
  ShapesReading reading;
  reading.colour = 1, reading.outline = 2, reading.direction = 3, reading.background = 0;
  score.add({1, 2, 3, 0}, reading);
  score.add({0, 2, 3, 0}, reading);
  EXPECT_EQ(score.all_four, 1);
  EXPECT_DOUBLE_EQ(score.clip_share(), 0.5);
  EXPECT_DOUBLE_EQ(score.attribute_share(), 7.0 / 8);
}

}  // namespace
}  // namespace surgery
