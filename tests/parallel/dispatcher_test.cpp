#include "parallel/dispatcher.h"

#include <gtest/gtest.h>

namespace surgery {
namespace {

using Kind = Dispatcher::Answer::Kind;

size_t taken(Dispatcher& dispatcher, int rank) {
  const auto answer = dispatcher.next(rank);
  if (!answer || answer->kind != Kind::make) {
    ADD_FAILURE() << "rank " << rank << " got no unit";
    return 999;
  }
  return answer->unit;
}

TEST(Dispatcher, HandsOutTheLongestFirstAndTiesByPosition) {
  Dispatcher dispatcher({{"a", 1}, {"b", 4}, {"c", 4}, {"d", 9}}, 1, 3);
  for (const size_t expected : {3, 1, 2, 0}) {
    EXPECT_EQ(taken(dispatcher, 0), expected);
    dispatcher.made(expected);
  }
  EXPECT_EQ(dispatcher.next(0)->kind, Kind::finished);
}

TEST(Dispatcher, RanksWithoutWorkWaitUntilTheLastUnitIsMade) {
  Dispatcher dispatcher({{"a", 1}}, 3, 3);
  EXPECT_EQ(taken(dispatcher, 2), 0u);
  EXPECT_FALSE(dispatcher.next(0));
  EXPECT_FALSE(dispatcher.next(1));
  dispatcher.made(0);
  for (int rank : {0, 1, 2}) EXPECT_EQ(dispatcher.next(rank)->kind, Kind::finished);
}

TEST(Dispatcher, AFailedUnitGoesToARankThatHasNotTriedIt) {
  Dispatcher dispatcher({{"a", 2}, {"b", 1}}, 2, 4);
  EXPECT_EQ(taken(dispatcher, 0), 0u);
  EXPECT_TRUE(dispatcher.failed(0, "rank 0", 0, ExitCode::io, "no"));
  EXPECT_EQ(taken(dispatcher, 0), 1u);  // something else for rank 0
  dispatcher.made(1);
  EXPECT_FALSE(dispatcher.next(0));  // the failed unit waits for rank 1, and so does rank 0
  EXPECT_EQ(taken(dispatcher, 1), 0u);
  EXPECT_TRUE(dispatcher.failed(1, "rank 1", 0, ExitCode::io, "no"));
  EXPECT_EQ(taken(dispatcher, 0), 0u);  // both have tried: anyone again
  EXPECT_TRUE(dispatcher.failed(0, "rank 0", 0, ExitCode::io, "no"));
  EXPECT_FALSE(dispatcher.next(0));
  EXPECT_EQ(taken(dispatcher, 1), 0u);
  dispatcher.made(0);
  EXPECT_EQ(dispatcher.next(0)->kind, Kind::finished);
}

TEST(Dispatcher, TheLastAllowedFailureEndsThePhaseOnceWorkInHandIsMade) {
  Dispatcher dispatcher({{"a", 2}, {"b", 1}, {"c", 1}}, 2, 1);
  EXPECT_EQ(taken(dispatcher, 0), 0u);
  EXPECT_EQ(taken(dispatcher, 1), 1u);
  EXPECT_FALSE(dispatcher.failed(0, "rank 0 (n1)", 0, ExitCode::data, "torn"));
  EXPECT_FALSE(dispatcher.next(0));  // c is not handed out, b is awaited
  dispatcher.made(1);
  for (int rank : {0, 1}) {
    const auto answer = dispatcher.next(rank);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->kind, Kind::failed);
    EXPECT_EQ(answer->code, ExitCode::data);
    EXPECT_NE(answer->message.find("a failed 1 times, last on rank 0 (n1): torn"), std::string::npos);
  }
}

TEST(Dispatcher, AStopWaitsForWorkInHandAndIsTheSameForAll) {
  Dispatcher dispatcher({{"a", 1}, {"b", 1}, {"c", 1}}, 2, 3);
  EXPECT_EQ(taken(dispatcher, 0), 0u);
  EXPECT_EQ(taken(dispatcher, 1), 1u);
  dispatcher.stop();
  dispatcher.made(0);
  EXPECT_FALSE(dispatcher.next(0));
  dispatcher.made(1);
  for (int rank : {0, 1}) {
    EXPECT_EQ(dispatcher.next(rank)->kind, Kind::stopped);
    EXPECT_EQ(dispatcher.next(rank)->left, std::vector<size_t>{2});
  }
}

TEST(Dispatcher, NobodyLeavesBeforeAllRanksHaveCome) {
  Dispatcher dispatcher({{"a", 1}}, 2, 3);
  EXPECT_EQ(taken(dispatcher, 0), 0u);
  dispatcher.made(0);
  EXPECT_FALSE(dispatcher.next(0));
  dispatcher.fail(ExitCode::io, "rank 1 sees other work");
  EXPECT_EQ(dispatcher.next(1)->kind, Kind::failed);
  EXPECT_EQ(dispatcher.next(0)->kind, Kind::failed);
}

TEST(Dispatcher, AStopAfterTheLastUnitIsNoStop) {
  Dispatcher dispatcher({{"a", 1}}, 1, 3);
  EXPECT_EQ(taken(dispatcher, 0), 0u);
  dispatcher.stop();
  dispatcher.made(0);
  EXPECT_EQ(dispatcher.next(0)->kind, Kind::finished);
}

}  // namespace
}  // namespace surgery
