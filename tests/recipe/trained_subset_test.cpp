#include "recipe/trained_subset.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace surgery {
namespace {

const std::vector<Rate> kRates{Rate::full(), Rate::parse("4")};

TEST(TrainedSubset, KnowsHybridAttentionAndPatterns) {
  EXPECT_TRUE(TrainedSubset("all", kRates).contains("proj_out.bias"));
  const TrainedSubset hybrid("hybrid-attention", kRates);
  EXPECT_TRUE(hybrid.contains("blocks.1.attn1.to_q.weight"));
  EXPECT_TRUE(hybrid.contains("blocks.1.attn1.phi_k.0.bias"));
  EXPECT_FALSE(hybrid.contains("blocks.0.attn1.to_q.weight")) << "full attention";
  EXPECT_FALSE(hybrid.contains("blocks.1.attn2.to_q.weight"));
  const TrainedSubset patterns("blocks.?.ffn.* , proj_out.*", kRates);
  EXPECT_TRUE(patterns.contains("blocks.0.ffn.net.2.bias"));
  EXPECT_TRUE(patterns.contains("proj_out.weight"));
  EXPECT_FALSE(patterns.contains("blocks.10.ffn.net.2.bias"));
}

TEST(TrainedSubset, RefusesWhatNamesNothing) {
  const std::vector<std::string> names{"blocks.0.attn1.to_q.weight", "proj_out.bias"};
  EXPECT_NO_THROW(TrainedSubset("all,proj_*", kRates).check(names));
  EXPECT_THROW(TrainedSubset("proj_*,head.*", kRates).check(names), Error);
  EXPECT_THROW(TrainedSubset("hybrid-attention", {Rate::full()}).check(names), Error);
  EXPECT_THROW(TrainedSubset("all,", kRates), Error);
}

}  // namespace
}  // namespace surgery
