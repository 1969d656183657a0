#include "recipe/run_control.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>

#include "base/errors.h"
#include "base/signals.h"

namespace surgery {
namespace {

class RunControlTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / "run_control";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    clear_stop_request();
  }
  void TearDown() override { clear_stop_request(); }
  void make(const char* name) { std::ofstream(folder_ / name) << "\n"; }
  RunControl control(std::optional<double> stop_at = {}) {
    return {folder_ / "STOP", folder_ / "SAVE", stop_at};
  }
  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  std::filesystem::path folder_;
};

TEST_F(RunControlTest, FilesAskForAStopOrASave) {
  auto nothing = control();
  nothing.look();
  EXPECT_FALSE(stop_requested());
  EXPECT_FALSE(nothing.save_asked());
  make("SAVE");
  nothing.look();
  EXPECT_FALSE(nothing.save_asked()) << "it does not look again within a second";
  auto save = control();
  save.look();
  EXPECT_TRUE(save.save_asked());
  EXPECT_FALSE(stop_requested());
  make("STOP");
  control().look();
  EXPECT_TRUE(stop_requested());
}

TEST_F(RunControlTest, TheEndOfTheJobsTimeAsksForAStop) {
  control(now() + 3600).look();
  EXPECT_FALSE(stop_requested());
  control(now() - 1).look();
  EXPECT_TRUE(stop_requested());
}

TEST(StopTime, IsFiveMinutesBeforeTheEndOrATenthOfAShortJob) {
  EXPECT_DOUBLE_EQ(stop_time(1000, "87400").value(), 87100);
  EXPECT_DOUBLE_EQ(stop_time(1000, "1100").value(), 1090);
  EXPECT_FALSE(stop_time(1000, nullptr).has_value());
  EXPECT_FALSE(stop_time(1000, "tomorrow").has_value());
  EXPECT_FALSE(stop_time(1000, "900").has_value()) << "an end that is past says nothing";
}

TEST(StallLimits, HoldForAllStagesOrForOne) {
  EXPECT_FALSE(parse_stall_limits("0").any());
  EXPECT_EQ(parse_stall_limits("0.5").seconds("finetune"), 30);
  const StallLimits limits = parse_stall_limits("30, finetune=5,encode=0");
  EXPECT_EQ(limits.seconds("distill"), 1800);
  EXPECT_EQ(limits.seconds("finetune"), 300);
  EXPECT_EQ(limits.seconds("encode"), 0) << "as long as it likes";
  const StallLimits one = parse_stall_limits("finetune=5");
  EXPECT_TRUE(one.any());
  EXPECT_EQ(one.seconds("encode"), 0);
  for (const char* wrong : {"", "-1", "nan", "inf", "30,", "30,40", "finetune=", "=5",
                            "finetune=5,finetune=6", "finetune=x", "finetuning=5"})
    EXPECT_THROW(parse_stall_limits(wrong), Error) << wrong;
}

}  // namespace
}  // namespace surgery
