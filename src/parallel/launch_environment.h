#pragma once
#include <functional>
#include <string>

namespace surgery {

/// What the environment says about how this process was started.
struct LaunchEnvironment {
  bool launched = false;  ///< an MPI launcher started it, so MPI can be initialised
  int ranks = 1;          ///< how many ranks the launcher or the allocation promises
  std::string source;     ///< the variable that says so
  bool alone = false;     ///< the user asked for a single rank: SURGERY_SINGLE_RANK=1
};

/// Reads it from the variables of Open MPI, MPICH and its kin, PMIx and Slurm. `get` is std::getenv or a
/// test's. Throws Error{usage} when a count is not a number.
LaunchEnvironment read_launch_environment(const std::function<const char*(const char*)>& get);

/// Throws Error{usage}, saying how to launch, when `size` ranks came up where the environment promises more:
/// then every process would run the whole job alone, over the same files.
void validate_world_size(const LaunchEnvironment& environment, int size);

}  // namespace surgery
