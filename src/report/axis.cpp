#include "report/axis.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace surgery {
namespace {

constexpr int kTicks = 6;

/// The round step (1, 2, 2.5 or 5 times a power of ten) that cuts `range` into at most kTicks pieces.
double round_step(double range) {
  const double rough = range / kTicks, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

}  // namespace

Axis::Axis(const AxisOptions& options, std::span<const double> values) : scale_(options.scale) {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  for (const double value : values) {
    if (!shows(value)) continue;
    least = std::min(least, value);
    most = std::max(most, value);
  }
  if (least > most) {  // nothing to show
    least = scale_ == Scale::linear ? 0 : 1;
    most = scale_ == Scale::linear ? 1 : 10;
  }
  if (options.from_zero && scale_ == Scale::linear) {
    least = std::min(least, 0.0);
    most = std::max(most, 0.0);
  }
  low_ = options.low.value_or(least);
  high_ = options.high.value_or(most);
  if (scale_ == Scale::linear) {
    fit_linear(options);
  } else {
    fit_logarithmic(options);
  }
}

bool Axis::shows(double value) const {
  return std::isfinite(value) && (scale_ == Scale::linear || value > 0);
}

double Axis::position(double value) const {
  if (scale_ == Scale::linear) return (value - low_) / (high_ - low_);
  return std::log(value / low_) / std::log(high_ / low_);
}

void Axis::fit_linear(const AxisOptions& options) {
  // Below this range neighbouring numbers could not be told apart.
  const double least_range = std::max(std::abs(low_), std::abs(high_)) * 1e-9;
  if (!(high_ - low_ > least_range)) {
    const double room = high_ == 0 ? 1 : std::abs(high_) * 0.1;
    if (!options.high) high_ += room;
    if (!options.low && !(options.from_zero && low_ == 0)) low_ -= room;
    if (!(high_ > low_)) high_ = low_ + room;
  }
  const double step = round_step(high_ - low_);
  if (!options.low) low_ = std::floor(low_ / step + 1e-9) * step;
  if (!options.high) high_ = std::ceil(high_ / step - 1e-9) * step;
  const double first = std::ceil(low_ / step - 1e-9), last = std::floor(high_ / step + 1e-9);
  for (double i = first; i <= last; ++i) ticks_.push_back(i == 0 ? 0 : i * step);
}

void Axis::fit_logarithmic(const AxisOptions& options) {
  if (low_ <= 0) low_ = high_ > 0 ? high_ / 10 : 1;
  if (high_ < low_) high_ = low_;
  const bool narrow = high_ / low_ < 50;
  const auto round_down = [&](double value) {
    const double power = std::pow(10.0, std::floor(std::log10(value) + 1e-9)),
                 digit = value / power * (1 + 1e-9);
    if (!narrow) return power;
    return power * (digit >= 5 ? 5 : digit >= 2 ? 2 : 1);
  };
  if (!options.low) low_ = round_down(low_);
  if (!options.high) {
    const double below = round_down(high_);
    if (high_ > below * (1 + 1e-9) || below <= low_) {
      const double digit = below / std::pow(10.0, std::floor(std::log10(below) + 1e-9));
      high_ = narrow ? below * (digit > 1.5 && digit < 3 ? 2.5 : 2) : below * 10;
    }
  }
  if (!(high_ > low_)) high_ = low_ * 10;
  const double first = std::floor(std::log10(low_) + 1e-9), last = std::ceil(std::log10(high_) - 1e-9);
  const double every = std::max(1.0, std::ceil((last - first) / 8));
  for (double exponent = first; exponent <= last; exponent += every) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor > 1 && !narrow) break;
      const double tick = factor * std::pow(10.0, exponent);
      if (tick >= low_ * (1 - 1e-9) && tick <= high_ * (1 + 1e-9)) ticks_.push_back(tick);
    }
  }
}

}  // namespace surgery
