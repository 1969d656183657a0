#pragma once
#include <cstdint>
#include <vector>

namespace surgery {

/// A share with its interval.
struct Proportion {
  int64_t successes = 0, trials = 0;
  double share = 0, low = 0, high = 1;  ///< 0..1
};

/// Wilson's score interval (Wilson 1927) at `z` standard deviations (1.96: 95 %): stays within [0, 1] and is
/// of use at shares of 0 and 1, where the normal interval is not. No trials: share 0 in [0, 1].
Proportion wilson_interval(int64_t successes, int64_t trials, double z = 1.959963984540054);

/// The middle value; of an even number of them the upper one. At least one.
double median(std::vector<double> values);

}  // namespace surgery
