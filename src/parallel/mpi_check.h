#pragma once

namespace surgery {

/// Throws Error{internal} with the expression, its place, this rank, its host and the MPI library's own text
/// unless `code` is MPI_SUCCESS. Works because the session sets MPI_ERRORS_RETURN right after initialisation.
void check_mpi(int code, const char* expression, const char* file, int line);

}  // namespace surgery

/// Every call into MPI goes through this.
#define MPI_CHECK(call) ::surgery::check_mpi((call), #call, __FILE__, __LINE__)
