#include "base/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace surgery {

Proportion wilson_interval(int64_t successes, int64_t trials, double z) {
  EXPECT(successes >= 0 && successes <= trials);
  if (trials == 0) return {};
  const double n = static_cast<double>(trials), share = static_cast<double>(successes) / n, z2 = z * z;
  const double centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double reach = z / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  // At shares of 0 and 1 the ends are exact; rounding must not put them beside the share.
  return {successes, trials, share, std::clamp(centre - reach, 0.0, share),
          std::clamp(centre + reach, share, 1.0)};
}

double median(std::vector<double> values) {
  EXPECT(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace surgery
