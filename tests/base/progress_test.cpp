#include "base/progress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

namespace surgery {
namespace {

struct Recorded {
  double now = 100;
  std::vector<std::string> texts;
  ProgressSettings settings(int terminal) {
    ProgressSettings result;
    result.terminal = terminal;
    result.clock = [this] { return now; };
    result.write = [this](const std::string& text) { texts.push_back(text); };
    return result;
  }
};

TEST(Progress, ALogGetsOneLineAnInterval) {
  Recorded recorded;
  {
    Progress progress("distill", 100, "blocks", 0, recorded.settings(0));
    for (int i = 0; i < 100; ++i) {
      recorded.now += 1;
      progress.advance(1, "loss 0.5");
    }
  }
  ASSERT_EQ(recorded.texts.size(), 4u);  // after 30, 60, 90 seconds, and at the end
  EXPECT_EQ(recorded.texts[0], "distill: 30/100 blocks, 1 blocks/s, 1m10s left, loss 0.5");
  EXPECT_EQ(recorded.texts[3], "distill: 100/100 blocks, 1 blocks/s, loss 0.5, took 1m40s");
}

TEST(Progress, WhatWasThereBeforeDoesNotCountInTheRate) {
  Recorded recorded;
  Progress progress("cache", 100, "prompts", 90, recorded.settings(0));
  recorded.now += 40;
  progress.advance(2);
  ASSERT_EQ(recorded.texts.size(), 1u);
  EXPECT_EQ(recorded.texts[0], "cache: 92/100 prompts, 20 s each, 2m40s left");
}

TEST(Progress, ATerminalsLineIsRewritten) {
  Recorded recorded;
  {
    Progress progress("cache", 3, "prompts", 0, recorded.settings(1));
    for (int i = 0; i < 3; ++i) {
      recorded.now += 0.1;
      progress.advance();
    }
  }
  ASSERT_EQ(recorded.texts.size(), 2u) << "not more often than the eye can follow";
  EXPECT_EQ(recorded.texts[0].front(), '\r');
  EXPECT_EQ(recorded.texts[0].find('\n'), std::string::npos);
  EXPECT_EQ(recorded.texts[1].back(), '\n');
}

TEST(Progress, StoppedOnTheWayDoesNotClaimTheEnd) {
  Recorded log, terminal;
  try {
    Progress in_log("cache", 3, "prompts", 0, log.settings(0));
    Progress on_terminal("cache", 3, "prompts", 0, terminal.settings(1));
    terminal.now += 1;
    on_terminal.advance();
    throw std::runtime_error("interrupted");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(log.texts.empty());
  ASSERT_EQ(terminal.texts.size(), 2u);
  EXPECT_EQ(terminal.texts[1], "\n") << "the next message must begin on a line of its own";
}

TEST(FormatDuration, TakesTheTwoLargestUnits) {
  EXPECT_EQ(format_duration(0.4), "0s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(3661), "1h01m");
  EXPECT_EQ(format_duration(86400 * 2 + 3 * 3600), "2d03h");
  EXPECT_EQ(format_duration(-1), "0s");
  EXPECT_EQ(format_duration(INFINITY), "unknown");
}

}  // namespace
}  // namespace surgery
