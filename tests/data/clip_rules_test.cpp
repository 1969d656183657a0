#include "data/clip_rules.h"

#include <gtest/gtest.h>

namespace surgery {
namespace {

ClipSource source_of(int64_t height, int64_t width, double seconds = 20) {
  return {.height = height, .width = width, .seconds = seconds, .aesthetic = {}};
}

/// The bucket's text, or why there is none.
std::string bucket_of(const ClipSource& source, const ClipRules& rules) {
  const ClipVerdict verdict = judge(source, rules);
  return verdict.kept() ? to_string(rules.buckets[verdict.bucket]) : verdict.kind;
}

TEST(ClipRules, ShapesAreReadAndWritten) {
  EXPECT_EQ(parse_clip_shape("81x480x832"), (ClipShape{81, 480, 832}));
  EXPECT_EQ(to_string(ClipShape{81, 480, 832}), "81x480x832");
  for (const char* text :
       {"", "81", "81x480", "81x480x832x1", "0x480x832", "-81x480x832", "ax480x832", "81x 4x8"})
    EXPECT_FALSE(parse_clip_shape(text)) << text;
}

TEST(ClipRules, AClipGoesIntoTheBucketThatFits) {
  const ClipRules rules{
      .buckets = {{81, 480, 832}, {81, 832, 480}, {41, 480, 832}, {81, 240, 416}, {81, 320, 320}}};
  EXPECT_EQ(bucket_of(source_of(1080, 1920), rules), "81x480x832") << "the most pixels of the nearest aspect";
  EXPECT_EQ(bucket_of(source_of(1920, 1080), rules), "81x832x480");
  EXPECT_EQ(bucket_of(source_of(720, 720), rules), "81x320x320");
  EXPECT_EQ(bucket_of(source_of(360, 640), rules), "81x240x416") << "the larger one would be enlarged";
  EXPECT_EQ(bucket_of(source_of(1080, 1920, 3), rules), "41x480x832") << "81 frames last 5 s";
  EXPECT_EQ(bucket_of(source_of(1080, 1920, 1), rules), "too short");
  EXPECT_EQ(bucket_of(source_of(100, 176), rules), "81x480x832")
      << "enlarged in any case: aspect, pixels, frames";
  EXPECT_TRUE(judge(source_of(100, 176), rules).enlarged);
  EXPECT_FALSE(judge(source_of(360, 640), rules).enlarged);
}

TEST(ClipRules, TheLastFrameMustBeOnScreen) {
  const ClipRules rules{.buckets = {{5, 16, 16}}, .fps = 16};
  EXPECT_EQ(bucket_of(source_of(16, 16, 5 / 16.0), rules), "5x16x16");
  EXPECT_EQ(bucket_of(source_of(16, 16, 4 / 16.0), rules), "too short");
  EXPECT_EQ(bucket_of(source_of(16, 16, 0), rules), "5x16x16") << "not known: the decoder will tell";
}

TEST(ClipRules, FiltersNameTheirReason) {
  ClipRules rules{.buckets = {{81, 480, 832}}};
  rules.least_height = 480, rules.least_width = 832;
  EXPECT_EQ(bucket_of(source_of(480, 832), rules), "81x480x832");
  EXPECT_EQ(bucket_of(source_of(479, 832), rules), "too small");
  EXPECT_EQ(bucket_of(source_of(480, 831), rules), "too small");
  rules.least_seconds = 6, rules.most_seconds = 30;
  EXPECT_EQ(bucket_of(source_of(480, 832, 5.9), rules), "too short");
  EXPECT_EQ(bucket_of(source_of(480, 832, 30), rules), "81x480x832");
  EXPECT_EQ(bucket_of(source_of(480, 832, 30.1), rules), "too long");
  rules.least_aesthetic = 4.75;
  EXPECT_EQ(bucket_of(source_of(480, 832), rules), "no aesthetic score");
  ClipSource scored = source_of(480, 832);
  scored.aesthetic = 4.7;
  EXPECT_EQ(bucket_of(scored, rules), "aesthetic score");
  EXPECT_NE(judge(scored, rules).reason.find("4.7 is below 4.75"), std::string::npos);
  scored.aesthetic = 4.75;
  EXPECT_EQ(bucket_of(scored, rules), "81x480x832");
}

// Within [target / 2, target * 2], the target's height / width being 480 / 832.
TEST(ClipRules, TheAspectMayBeOffByAFactor) {
  const ClipRules rules{.buckets = {{81, 480, 832}}, .most_aspect = 2};
  EXPECT_EQ(bucket_of(source_of(960, 832), rules), "81x480x832");
  EXPECT_EQ(bucket_of(source_of(962, 832), rules), "aspect ratio");
  EXPECT_EQ(bucket_of(source_of(480, 1664), rules), "81x480x832");
  EXPECT_EQ(bucket_of(source_of(480, 1666), rules), "aspect ratio");
}

TEST(ClipRules, OnlyWhatIsAskedForMakesADecoderNecessary) {
  const ClipSource nothing;
  EXPECT_TRUE(judge(nothing, {.buckets = {{81, 480, 832}}}).certain);
  EXPECT_FALSE(judge(nothing, {.buckets = {{81, 480, 832}, {81, 832, 480}}}).certain);
  EXPECT_FALSE(judge(source_of(480, 832, 0), {.buckets = {{81, 480, 832}, {41, 480, 832}}}).certain);
  EXPECT_TRUE(judge(source_of(480, 832, 0), {.buckets = {{81, 480, 832}, {81, 832, 480}}}).certain);
  EXPECT_FALSE(judge(nothing, {.buckets = {{81, 480, 832}}, .least_width = 1}).certain);
  EXPECT_FALSE(judge(nothing, {.buckets = {{81, 480, 832}}, .most_seconds = 1}).certain);
  EXPECT_FALSE(judge(nothing, {.buckets = {{81, 480, 832}}, .most_aspect = 2}).certain);
}

TEST(ClipRules, AnAnnotationNearAnEdgeIsLeftToTheDecoder) {
  const ClipRules rules{.buckets = {{81, 480, 832}}, .least_seconds = 3, .most_seconds = 10};
  const auto annotated = [](double seconds) {
    ManifestRecord record;
    record.height = 1080, record.width = 1920, record.duration_seconds = seconds;
    return annotated_source(record);
  };
  for (const double edge : {5.0, 9.95, 10.05}) {  // 81 frames last longer than 5 s
    const ClipVerdict verdict = judge(annotated(edge), rules);
    EXPECT_TRUE(verdict.kept() && !verdict.certain) << edge << " " << verdict.reason;
  }
  EXPECT_EQ(judge(source_of(1080, 1920, 5), rules).kind, "too short");
  EXPECT_TRUE(judge(annotated(7), rules).certain);
  EXPECT_EQ(judge(annotated(4.8), rules).kind, "too short");
  EXPECT_EQ(judge(annotated(2.95), rules).kind, "too short");
  EXPECT_EQ(judge(annotated(10.2), rules).kind, "too long");
  ManifestRecord counted;
  counted.height = 1080, counted.width = 1920, counted.fps = 30, counted.frames = 150;  // 5.005 s at 29.97
  EXPECT_FALSE(judge(annotated_source(counted), rules).certain);
  counted.frames = 152;
  EXPECT_TRUE(judge(annotated_source(counted), rules).certain);
  counted.frames = 149;
  EXPECT_EQ(judge(annotated_source(counted), rules).kind, "too short");
}

TEST(ClipRules, AnnotationsTellLengthAndSize) {
  ManifestRecord record;
  EXPECT_EQ(annotated_source(record).seconds, 0);
  record.duration_seconds = 7;
  EXPECT_EQ(annotated_source(record).seconds, 7);
  record.fps = 25, record.frames = 200;
  EXPECT_EQ(annotated_source(record).seconds, 8);
  record.cut = FrameRange{50, 100};
  EXPECT_EQ(annotated_source(record).seconds, 2);
  record.height = 720, record.width = 1280;
  EXPECT_EQ(annotated_source(record).width, 1280);
  record.crop = Box{0, 640, 100, 460};
  EXPECT_EQ(annotated_source(record).width, 640);
  EXPECT_EQ(annotated_source(record).height, 360);
  record.fps = 0;
  EXPECT_EQ(annotated_source(record).seconds, 0) << "a cut in frames without a rate";
}

TEST(ClipRules, TheDecodersLengthIsThatOfTheCut) {
  VideoInfo info;
  info.width = 1280, info.height = 720, info.fps = 25, info.duration_seconds = 4;
  EXPECT_EQ(decoded_source(info, {}, {}, {}).seconds, 4);
  EXPECT_EQ(decoded_source(info, FrameRange{25, 75}, {}, {}).seconds, 2);
  EXPECT_EQ(decoded_source(info, FrameRange{25, 750}, {}, {}).seconds, 3) << "not beyond the file's end";
  EXPECT_EQ(judge(decoded_source(info, FrameRange{500, 750}, {}, {}), {.buckets = {{5, 16, 16}}}).kind,
            "too short");
  EXPECT_EQ(decoded_source(info, {}, Box{0, 100, 0, 50}, {}).height, 50);
  info.duration_seconds = 0, info.frames = 50;
  EXPECT_EQ(decoded_source(info, {}, {}, {}).seconds, 2);
  info.duration_seconds = 4, info.width = 640;
  EXPECT_FALSE(judge(decoded_source(info, {}, {}, {}), {.buckets = {{5, 480, 480}}}).enlarged);
  info.pixel_aspect = 2;  // shown 1280 wide: a square of it is 360 stored pixels wide
  EXPECT_TRUE(judge(decoded_source(info, {}, {}, {}), {.buckets = {{5, 480, 480}}}).enlarged);
}

}  // namespace
}  // namespace surgery
