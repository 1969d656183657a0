#include "attention/rate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"

namespace surgery {
namespace {

void expect_refused(const std::function<void()>& call, const std::string& words) {
  try {
    call();
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Rate, KeepsEveryRthTokenAndLeavesTheRest) {
  for (const int64_t tokens : {0, 1, 7, 8, 9, 12600, 32760}) {
    for (const int64_t stride : {1, 2, 3, 4, 8, 100}) {
      int64_t kept = 0;
      for (int64_t j = 0; j < tokens; j += stride) ++kept;
      const Rate rate = Rate::every(stride);
      EXPECT_EQ(rate.softmax_tokens(tokens), kept) << tokens << " tokens at rate " << stride;
      EXPECT_EQ(rate.softmax_tokens(tokens) + rate.linear_tokens(tokens), tokens);
    }
    EXPECT_EQ(Rate::linear().softmax_tokens(tokens), 0);
    EXPECT_EQ(Rate::linear().linear_tokens(tokens), tokens);
  }
}

TEST(Rate, ReadsItsOwnNames) {
  for (const char* name : {"1", "2", "3", "8", "100", "linear"}) EXPECT_EQ(Rate::parse(name).name(), name);
  EXPECT_TRUE(Rate::parse("1").is_full());
  EXPECT_TRUE(Rate::parse("linear").is_linear());
  EXPECT_EQ(parse_rates("2, 4,8 ,linear"),
            (std::vector<Rate>{Rate::every(2), Rate::every(4), Rate::every(8), Rate::linear()}));
}

TEST(Rate, RefusesWhatIsNoRate) {
  for (const char* text : {"", "0", "-2", "2.5", "2x", "Linear", "99999999999999999999", " 2"})
    expect_refused([&] { Rate::parse(text); }, "give 1, 2, 3, ... or linear");
  expect_refused([] { Rate::every(0); }, "rate 0");
  for (const char* list : {"", "2,,4", "2,", ",2", "2;4"})
    expect_refused([&] { parse_rates(list); }, "give 1, 2, 3, ... or linear");
}

TEST(Rate, IsOrderedDearestFirst) {
  std::vector<Rate> rates = parse_rates("linear,8,1,3,2");
  std::sort(rates.begin(), rates.end());
  EXPECT_EQ(rates, parse_rates("1,2,3,8,linear"));
}

}  // namespace
}  // namespace surgery
