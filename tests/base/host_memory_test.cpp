#include "base/host_memory.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

namespace surgery {
namespace {

class ControlGroups : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/surgery-cgroup-XXXXXX";
    root_ = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void limit(const std::filesystem::path& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  std::filesystem::path root_;
};

TEST_F(ControlGroups, TheLowestLimitOfAGroupAndThoseAroundItCounts) {
  limit("slurm/job_7/memory.max", "4000000000");
  limit("slurm/job_7/step_0/task_1/memory.max", "max");
  limit("slurm/memory.max", "9000000000");
  EXPECT_EQ(cgroup_memory_limit("0::/slurm/job_7/step_0/task_1\n", root_), 4e9);
  EXPECT_EQ(cgroup_memory_limit("0::/slurm\n", root_), 9e9);
  EXPECT_TRUE(std::isinf(cgroup_memory_limit("0::/elsewhere\n", root_)));
}

TEST_F(ControlGroups, VersionOneNamesTheMemoryController) {
  limit("memory/slurm/uid_0/memory.limit_in_bytes", "2000000000");
  limit("slurm/uid_0/memory.max", "1");  // of no group of this hierarchy
  EXPECT_EQ(cgroup_memory_limit("5:cpu,cpuacct:/slurm/uid_0\n4:memory:/slurm/uid_0\n", root_), 2e9);
}

TEST_F(ControlGroups, WithoutAnyTheMachineCounts) {
  EXPECT_TRUE(std::isinf(cgroup_memory_limit("", root_)));
  EXPECT_TRUE(std::isinf(cgroup_memory_limit("nonsense\n", root_)));
  EXPECT_GT(host_memory(), 1e8);
  EXPECT_LE(host_memory(),
            static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE)));
}

}  // namespace
}  // namespace surgery
