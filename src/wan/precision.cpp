#include "wan/precision.h"

#include <fmt/ranges.h>

#include <string_view>
#include <utility>

#include "base/errors.h"

namespace surgery {
namespace {

bool contains_any(const std::string& name, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts)
    if (name.find(part) != std::string::npos) return true;
  return false;
}

const std::vector<std::pair<std::string, Precision>>& precisions() {
  static const std::vector<std::pair<std::string, Precision>> all{
      {"fp32", at::kFloat},
      {"bf16-diffusers", {at::kBFloat16, Rounding::diffusers}},
      {"bf16-wan", {at::kBFloat16, Rounding::wan}}};
  return all;
}

}  // namespace

bool kept_in_fp32(const std::string& parameter) {
  return contains_any(parameter, {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"});
}

at::ScalarType Precision::of_parameter(const std::string& name) const {
  const bool wide = kept_in_fp32(name) || (rounding == Rounding::wan &&
                                           contains_any(name, {"time_proj", "norm_q", "norm_k", "proj_out"}));
  return wide ? at::promote_types(dtype, at::kFloat) : dtype;
}

std::vector<std::string> precision_names() {
  std::vector<std::string> names;
  for (const auto& [name, precision] : precisions()) names.push_back(name);
  return names;
}

Precision parse_precision(const std::string& name) {
  for (const auto& [known, precision] : precisions())
    if (known == name) return precision;
  fail_usage("precision \"{}\" is unknown: choose {}", name, fmt::join(precision_names(), ", "));
}

}  // namespace surgery
