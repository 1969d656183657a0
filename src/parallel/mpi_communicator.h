#pragma once
#include <memory>

#include "parallel/communicator.h"

namespace surgery {

/// A communicator over all ranks of MPI with its own message space (collective; MPI must be initialised). One
/// thread at a time may use it; different communicators may be used by different threads at once. Data
/// travels through host memory: device pointers in MPI crash or crawl on too many installations.
///
/// All-reduce cuts the tensor in one piece a rank, every rank adds up its piece in rank order, and the pieces
/// are exchanged: 2 (P-1)/P of the bytes, like a ring, but with one fixed order of addition, so that results
/// are the same bits on every rank, in every run, and however a tensor is cut.
std::unique_ptr<Communicator> make_mpi_communicator();

}  // namespace surgery
