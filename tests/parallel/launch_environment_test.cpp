#include "parallel/launch_environment.h"

#include <gtest/gtest.h>

#include <map>

#include "base/errors.h"

namespace surgery {
namespace {

LaunchEnvironment read(const std::map<std::string, std::string>& variables) {
  return read_launch_environment([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

void expect_refused(const LaunchEnvironment& environment, const std::string& part) {
  try {
    validate_world_size(environment, 1);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("mpirun"), std::string::npos) << error.what();
  }
}

TEST(LaunchEnvironment, NothingSetIsASingleRankWithoutMpi) {
  const auto environment = read({});
  EXPECT_FALSE(environment.launched);
  EXPECT_NO_THROW(validate_world_size(environment, 1));
}

TEST(LaunchEnvironment, MpirunsCountIsTheTruthInsideAnAllocation) {
  const auto one = read({{"OMPI_COMM_WORLD_SIZE", "1"},
                         {"SLURM_NTASKS", "8"},
                         {"SLURM_STEP_ID", "0"},
                         {"SLURM_STEP_NUM_TASKS", "2"}});
  EXPECT_TRUE(one.launched);
  EXPECT_NO_THROW(validate_world_size(one, 1));
  const auto four = read({{"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_NO_THROW(validate_world_size(four, 4));
  expect_refused(four, "OMPI_COMM_WORLD_SIZE=4");  // a launcher of another MPI than the program's
}

TEST(LaunchEnvironment, SrunWithPmixIsALaunch) {
  const auto environment = read({{"PMIX_RANK", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  EXPECT_TRUE(environment.launched);
  EXPECT_EQ(environment.ranks, 4);
  expect_refused(environment, "SLURM_STEP_NUM_TASKS=4");
}

TEST(LaunchEnvironment, SrunWithoutAPmiIsManySingletons) {
  const auto environment =
      read({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_NTASKS", "4"}});
  EXPECT_FALSE(environment.launched);
  expect_refused(environment, "SLURM_STEP_NUM_TASKS=4");
}

TEST(LaunchEnvironment, OneTaskOfALargeAllocationIsFine) {
  EXPECT_NO_THROW(validate_world_size(
      read({{"SLURM_STEP_ID", "3"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "64"}}), 1));
}

TEST(LaunchEnvironment, ABatchScriptWithoutLauncherIsRefused) {
  expect_refused(read({{"SLURM_NTASKS", "16"}, {"SLURM_PROCID", "0"}}), "SLURM_NTASKS=16");
  expect_refused(read({{"SLURM_NNODES", "2"}}), "SLURM_NNODES=2");
  EXPECT_NO_THROW(validate_world_size(read({{"SLURM_NTASKS", "1"}, {"SLURM_NNODES", "1"}}), 1));
}

TEST(LaunchEnvironment, ASingleRankCanBeAskedFor) {
  const auto environment = read({{"SURGERY_SINGLE_RANK", "1"}, {"SLURM_NTASKS", "16"}});
  EXPECT_TRUE(environment.alone);
  EXPECT_NO_THROW(validate_world_size(environment, 1));
  expect_refused(read({{"SURGERY_SINGLE_RANK", "0"}, {"SLURM_NTASKS", "16"}}), "SLURM_NTASKS=16");
}

TEST(LaunchEnvironment, ACountThatIsNoNumberIsNamed) {
  try {
    read({{"SLURM_NTASKS", "many"}});
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("SLURM_NTASKS=many"), std::string::npos);
  }
}

}  // namespace
}  // namespace surgery
