#include "wan/parameter_check.h"

#include <fmt/ranges.h>

#include "base/errors.h"
#include "wan/tensor_faults.h"

namespace surgery {

void check_parameters(const std::string& where, const ParameterShapes& expected, const TensorMap& found) {
  TensorFaults faults;
  for (const auto& [name, shape] : expected) {
    const auto tensor = found.find(name);
    if (tensor == found.end())
      faults.add(name, "missing");
    else if (tensor->second.sizes() != at::IntArrayRef(shape))
      faults.add(name, fmt::format("is [{}] instead of [{}]", fmt::join(tensor->second.sizes(), ", "),
                                   fmt::join(shape, ", ")));
    else if (!tensor->second.is_floating_point())
      faults.add(name, "is not of a floating-point type");
  }
  for (const auto& [name, tensor] : found)
    if (!expected.contains(name)) faults.add(name, "unexpected");
  if (faults.empty()) return;
  fail_data(
      "{}: its tensors do not fit its sizes (it would compute nonsense): give the weights and the "
      "config.json of "
      "one checkpoint:{}",
      where, faults.text());
}

}  // namespace surgery
