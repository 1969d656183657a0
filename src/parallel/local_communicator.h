#pragma once
#include <memory>

#include "parallel/communicator.h"

namespace surgery {

/// The communicator of a single rank: every collective is a copy or nothing. It refuses what the others
/// refuse, so that a mistake shows on one rank already.
std::unique_ptr<Communicator> make_local_communicator();

/// What every communicator asks of a tensor: contiguous, of a type it carries. Throws Error{internal}.
void expect_communicable(const at::Tensor& tensor);
/// And of a reduction: no mean of integers. Throws Error{internal}.
void expect_reducible(const at::Tensor& tensor, Reduction reduction);

/// And of a rank's [n] and all ranks' [size * n]: of one type, and in memory apart, or the one where it
/// belongs in the other. Throws Error{internal}.
void expect_piece(const at::Tensor& piece, const at::Tensor& whole, int rank, int size);

}  // namespace surgery
