#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace surgery {

enum class Scale { linear, logarithmic };

/// What a chart's caller says about an axis.
struct AxisOptions {
  std::string label;  ///< with its unit
  Scale scale = Scale::linear;
  bool from_zero = false;           ///< linear: include 0
  std::optional<double> low, high;  ///< fixed ends; else fitted to the values
};

/// An axis fitted to values: ends at round numbers, ticks at 1, 2, 5 times powers of ten (or whole powers).
class Axis {
 public:
  /// Values that the scale cannot show (not finite; not positive on a logarithmic one) are left out of
  /// account.
  Axis(const AxisOptions& options, std::span<const double> values);
  bool shows(double value) const;
  /// 0 at the low end, 1 at the high end; outside of that beyond the ends.
  double position(double value) const;
  const std::vector<double>& ticks() const { return ticks_; }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  void fit_linear(const AxisOptions& options);
  void fit_logarithmic(const AxisOptions& options);

  Scale scale_;
  double low_ = 0, high_ = 1;
  std::vector<double> ticks_;
};

}  // namespace surgery
