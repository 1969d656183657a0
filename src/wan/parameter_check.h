#pragma once
#include <map>
#include <string>
#include <vector>

#include "storage/tensor_store.h"

namespace surgery {

/// Names and shapes of a component's tensors.
using ParameterShapes = std::map<std::string, std::vector<int64_t>>;

/// `found` must have exactly the tensors of `expected`, of floating point. Else Error{data} that begins with
/// `where` and lists what is missing, unexpected and of another shape, grouped by block: "blocks 0-29:
/// attn1.to_q.weight missing (30)".
void check_parameters(const std::string& where, const ParameterShapes& expected, const TensorMap& found);

}  // namespace surgery
