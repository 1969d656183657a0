#include "base/signals.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

namespace surgery {
namespace {

class Stop : public testing::Test {
 protected:
  void SetUp() override {
    install_stop_signals();
    clear_stop_request();
  }
  void TearDown() override { clear_stop_request(); }
};

class StopSignal : public Stop, public testing::WithParamInterface<int> {};

TEST_P(StopSignal, RaiseTheFlagInsteadOfEndingTheProcess) {
  EXPECT_FALSE(stop_requested());
  EXPECT_EQ(stop_signal(), 0);
  ASSERT_EQ(raise(GetParam()), 0);
  EXPECT_TRUE(stop_requested());
  EXPECT_EQ(stop_signal(), GetParam());
  ASSERT_EQ(raise(GetParam()), 0) << "a second signal is taken too";
  EXPECT_TRUE(stop_requested());
}

INSTANTIATE_TEST_SUITE_P(Caught, StopSignal, testing::Values(SIGTERM, SIGUSR2),
                         [](const auto& signal) { return signal.param == SIGTERM ? "SIGTERM" : "SIGUSR2"; });

TEST_P(StopSignal, ReleasedTheyEndTheProcessAgain) {
  const int number = GetParam();
  const auto after = [&] { release_stop_signals(), raise(number); };
  const auto before = [&] { raise(number), release_stop_signals(); };
  EXPECT_EXIT(after(), testing::KilledBySignal(number), "");
  EXPECT_EXIT(before(), testing::KilledBySignal(number), "") << "one that came before is not forgotten";
}

TEST_F(Stop, AStopCanBeAskedForFromWithin) {
  request_stop();
  EXPECT_TRUE(stop_requested());
  EXPECT_EQ(stop_signal(), 0);
}

TEST_F(Stop, BlockedThreadsLeaveThemToTheOthers) {
  bool pending_here = false;
  std::thread helper([&] {
    block_stop_signals();
    pthread_kill(pthread_self(), SIGTERM);
    sigset_t pending;
    sigpending(&pending);
    pending_here = sigismember(&pending, SIGTERM) == 1;
  });
  helper.join();
  EXPECT_TRUE(pending_here) << "the helper thread was interrupted";
  EXPECT_FALSE(stop_requested());
}

}  // namespace
}  // namespace surgery
