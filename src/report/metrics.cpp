#include "report/metrics.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace surgery {
namespace {

void check_alike(const at::Tensor& value, const at::Tensor& reference, const char* what) {
  VALIDATE(value.sizes() == reference.sizes() && value.numel() > 0,
           "{} of shapes [{}] and [{}] (only equal, non-empty shapes can be compared): compare the same clip",
           what, fmt::join(value.sizes(), ", "), fmt::join(reference.sizes(), ", "));
}

}  // namespace

double relative_error(const at::Tensor& value, const at::Tensor& reference) {
  check_alike(value, reference, "relative error");
  const auto expected = reference.detach().to(at::kDouble);
  const double difference =
      (value.detach().to(expected.device(), at::kDouble) - expected).norm().item<double>();
  return difference == 0 ? 0 : difference / expected.norm().item<double>();
}

double psnr(const at::Tensor& video, const at::Tensor& reference, double peak) {
  check_alike(video, reference, "PSNR");
  const auto expected = reference.detach().to(at::kDouble);
  const auto difference = video.detach().to(expected.device(), at::kDouble) - expected;
  return 10 * std::log10(peak * peak / difference.square().mean().item<double>());
}

MeanSpread mean_and_spread(std::span<const double> values) {
  MeanSpread result{static_cast<int64_t>(values.size()), 0, 0};
  if (values.empty()) return result;
  for (const double value : values) result.mean += value / static_cast<double>(values.size());
  if (values.size() < 2) return result;
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.deviation = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return result;
}

}  // namespace surgery
