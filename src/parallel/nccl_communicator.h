#pragma once
#include <memory>

#include "parallel/communicator.h"

namespace surgery {

/// Whether this program was built with NCCL (SURGERY_CUDA).
bool has_nccl();

/// A communicator over the ranks of `host`, for tensors on this rank's GPU; those on the host go through
/// `host`, which becomes its own. Collective. Error{usage} in a build without NCCL, or where two ranks have
/// the same GPU.
///
/// The collectives of all such communicators of a process share one stream: they run in the order in which
/// they were started, whichever communicator they belong to, so ranks that start them in one order cannot
/// wait for each other in a circle. They begin after what the starting thread's stream holds at the start.
/// Sums are NCCL's: the same bits on every rank and in every run of as many ranks on such a machine, not
/// those of MPI; bf16 is added in bf16; what a maximum makes of NaN is undefined. Errors of the network or of
/// another rank come out of the next test or wait of a collective as Error{internal} with NCCL's own words,
/// which name the peer; the process then cannot use it any more.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, at::Device device);

}  // namespace surgery
