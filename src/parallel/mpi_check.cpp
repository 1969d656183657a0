#include "parallel/mpi_check.h"

#include <mpi.h>
#include <unistd.h>

#include <array>

#include "base/errors.h"

namespace surgery {

void check_mpi(int code, const char* expression, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  int initialized = 0, finalized = 0, rank = -1;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized && !finalized) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  fail(ExitCode::internal,
       "{} failed at {}:{} on rank {}, {}: {} (the ranks can no longer work together): "
       "check the network and the other ranks' messages, then start again; finished work is kept",
       expression, file, line, rank, host.data(), std::string(text.data(), static_cast<size_t>(length)));
}

}  // namespace surgery
