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

}  // namespace surgery
