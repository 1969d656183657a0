#include "parallel/launch_environment.h"

#include <algorithm>

#include "base/errors.h"
#include "base/text.h"

namespace surgery {
namespace {

int count_in(const char* name, const char* value) {
  const int count = parse_number<int>(value).value_or(-1);
  if (count < 0)
    fail_usage("{}={} is not a number of ranks (it should come from the launcher): unset it or launch again",
               name, value);
  return count;
}

}  // namespace

LaunchEnvironment read_launch_environment(const std::function<const char*(const char*)>& get) {
  LaunchEnvironment environment;
  const auto is_set = [&](const char* name) { return get(name) != nullptr && *get(name) != '\0'; };
  const auto promise = [&](const char* name) {
    if (!is_set(name) || count_in(name, get(name)) <= environment.ranks) return;
    environment.ranks = count_in(name, get(name));
    environment.source = name;
  };

  if (is_set("SURGERY_SINGLE_RANK") && std::string_view(get("SURGERY_SINGLE_RANK")) != "0") {
    environment.alone = true;
    return environment;
  }
  // mpirun, also inside an allocation: its own count is the truth, whatever Slurm would have allowed.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}) {
    if (!is_set(name)) continue;
    environment.launched = true;
    promise(name);
    return environment;
  }
  for (const char* name : {"PMIX_RANK", "PMI_RANK", "PMI_FD", "PALS_RANKID", "FLUX_TASK_RANK"})
    environment.launched = environment.launched || is_set(name);
  if (is_set("SLURM_STEP_NUM_TASKS") && is_set("SLURM_STEP_ID")) {  // srun, with or without a PMI of its own
    promise("SLURM_STEP_NUM_TASKS");
    return environment;
  }
  if (environment.launched) return environment;
  promise("SLURM_NTASKS");
  promise("SLURM_NNODES");
  return environment;
}

void validate_world_size(const LaunchEnvironment& environment, int size) {
  if (environment.alone || size != 1 || environment.ranks <= 1) return;
  fail_usage(
      "this process is alone although {}={} (every process would do the whole job over the same files): "
      "start "
      "it with `srun --mpi=pmix` (`srun --mpi=list` shows what this Slurm offers) or `mpirun -n {}`, or set "
      "SURGERY_SINGLE_RANK=1 if one rank is what you want",
      environment.source, environment.ranks, environment.ranks);
}

}  // namespace surgery
