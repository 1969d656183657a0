#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "app/command.h"

namespace surgery {

/// Sets the threads of tensor computations: `configured`, or OMP_NUM_THREADS, or this rank's share of the
/// host's cores.
void set_threads(const Session& session, int64_t configured);
/// fp32 is fp32 on GPUs too: LibTorch leaves convolutions the TF32 of ten mantissa bits unless told
/// otherwise.
void forbid_tf32();

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
