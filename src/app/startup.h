#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "app/command.h"

namespace surgery {

/// Sets the threads of tensor computations: `configured`, or OMP_NUM_THREADS, or this rank's share of the
/// host's cores.
void set_threads(const Session& session, int64_t configured);

/// "surgery 0.1.0 (commit)".
std::string version_line();

/// Build, compiler, libraries (header and run time), and the devices of this host.
nlohmann::ordered_json describe_build();
/// One line a rank: rank, host, process, cores, devices. Every rank calls (a gather).
nlohmann::ordered_json describe_ranks(Session& session);

/// What a log needs at its head: build, libraries, ranks, the resolved configuration and its hash. Every rank
/// calls.
void print_startup(Context& context);

}  // namespace surgery
