#include "recipe/data_section.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace surgery {
namespace {

TEST(DataSection, WithoutBucketsThereIsOneShape) {
  DataSection data;
  data.frames = 81, data.height = 480, data.width = 832;
  EXPECT_EQ(clip_shapes(data), (std::vector<ClipShape>{{81, 480, 832}}));
  EXPECT_TRUE(clip_rules(data).may_enlarge);
  EXPECT_EQ(clip_choice(data), "");
  data.buckets = "81x480x832, 41x832x480";
  EXPECT_EQ(clip_shapes(data), (std::vector<ClipShape>{{81, 480, 832}, {41, 832, 480}}));
  EXPECT_FALSE(clip_rules(data).may_enlarge);
  const std::string buckets = clip_choice(data);
  EXPECT_NE(buckets, "");
  data.least_aesthetic = 4.75;
  EXPECT_NE(clip_choice(data), buckets);
}

TEST(DataSection, SetsOfShardsAreFoldersWithWeights) {
  const auto own = parse_shard_sets("");
  ASSERT_EQ(own.size(), 1u);
  EXPECT_TRUE(own[0].own());
  const auto one = parse_shard_sets("/some/folder");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].folder, "/some/folder");
  EXPECT_EQ(one[0].weight, 0);
  const auto two = parse_shard_sets("own=1,a=b/c=2.5");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_TRUE(two[0].own());
  EXPECT_EQ(two[1].folder, "a=b/c");
  EXPECT_EQ(two[1].weight, 2.5);
  EXPECT_EQ(parse_shard_sets("a=b")[0].folder, "a=b") << "no number: part of the name";
  for (const char* text : {"a,,b", "a,b=1", "a,a", "own,own", "a=0", "a=-1", "=1", "a=inf"})
    EXPECT_THROW(parse_shard_sets(text), Error) << text;
  DataSection data;
  EXPECT_TRUE(encodes_own(data));
  data.shards = "elsewhere";
  EXPECT_FALSE(encodes_own(data));
  data.shards = "elsewhere,own";
  EXPECT_TRUE(encodes_own(data));
}

}  // namespace
}  // namespace surgery
