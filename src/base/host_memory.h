#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace surgery {

/// Bytes of memory that this process may use on its host: the machine's, or the limit of its control group (a
/// job's under Slurm, a container's) where that is lower.
double host_memory();

/// The most bytes of memory that this process has held at once (its largest resident set).
int64_t peak_memory();

/// The lowest limit of the control group that `membership` (the text of /proc/self/cgroup, version 2 or 1)
/// names and of the groups around it, below `root` (/sys/fs/cgroup); infinite where none is set.
double cgroup_memory_limit(const std::string& membership, const std::filesystem::path& root);

}  // namespace surgery
