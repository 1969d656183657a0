#include "parallel/watchdog.h"

#include <gtest/gtest.h>

#include <future>

namespace surgery {
namespace {

TEST(Watchdog, SaysWhatTheRankWasDoingWhenTheLimitPasses) {
  std::promise<std::string> report;
  Watchdog watchdog("rank 3, n17", [&](const std::string& text) { report.set_value(text); });
  watchdog.enter("finetune", 60);
  watchdog.enter("checkpoint of step 400", 0.01);
  watchdog.beat("shard 2");
  const std::string text = report.get_future().get();  // waits for the expiry, however late
  EXPECT_NE(text.find("rank 3, n17"), std::string::npos) << text;
  EXPECT_NE(text.find("checkpoint of step 400"), std::string::npos) << text;
  EXPECT_NE(text.find("shard 2"), std::string::npos) << text;
}

TEST(Watchdog, IsSilentWithoutALimitAndAfterLeaving) {
  int expiries = 0;
  {
    Watchdog watchdog("here", [&](const std::string&) { ++expiries; });
    watchdog.enter("generate", 0);
    watchdog.enter("train", 3600);
    watchdog.beat();
    watchdog.leave();
  }
  EXPECT_EQ(expiries, 0);
}

}  // namespace
}  // namespace surgery
