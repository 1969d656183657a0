#pragma once
#include <cstddef>
#include <vector>

#include "base/tensor.h"
#include "parallel/communicator.h"

namespace surgery {

/// Reduces rows[0], rows[1], ... (one per rank, `count` elements of `type` each) into `out`, always in rank
/// order, so that the result depends neither on timing nor on how a tensor was cut in pieces. bf16 is summed
/// in fp32 and fp32 in fp64, then divided (mean) and rounded once. A NaN survives every reduction. `out` may
/// be one of the rows. Throws Error{internal} for other types and for the mean of integers.
void reduce_in_rank_order(at::ScalarType type, Reduction reduction, const std::vector<const std::byte*>& rows,
                          int64_t count, std::byte* out);

}  // namespace surgery
