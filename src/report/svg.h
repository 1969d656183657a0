#pragma once
#include <string>
#include <vector>

#include "report/axis.h"
#include "report/chart.h"

namespace surgery {

constexpr int kSeriesColours = 8;  ///< classes s0 to s7 of the style sheet

constexpr double kChartWidth = 600;

/// Width of text as drawn at the charts' font size, pixels (an estimate: the reader's font is not known).
double text_width(const std::string& text);

/// The common part of every chart: plotting area between axes, grid, tick labels, legend. Units: SVG pixels.
class Canvas {
 public:
  struct Entry {
    std::string name;
    size_t colour = 0;
    bool dashed = false, line = true;
  };
  /// `bottom`: room below the plotting area; `least_left`: room that labels below need to its left.
  Canvas(const Axis& y, const AxisOptions& y_options, const std::vector<Entry>& legend, double bottom,
         double least_left = 0);

  double left() const { return left_; }
  double right() const { return right_; }
  double top() const { return top_; }
  double bottom() const { return bottom_; }
  double x_at(double position) const { return left_ + position * (right_ - left_); }
  double y_at(double position) const { return bottom_ - position * (bottom_ - top_); }

  void add(const std::string& markup) { body_ += markup; }
  void add_x_axis(const Axis& x);
  void add_x_label(const std::string& label);
  void add_horizontal(const Axis& y, const std::vector<ReferenceLine>& lines);
  /// A vertical interval with caps.
  void add_interval(double x, double low, double high);
  std::string finish() const;

 private:
  double add_legend(const std::vector<Entry>& legend);

  double left_ = 0, right_ = 0, top_ = 0, bottom_ = 0;
  std::string body_;
};

}  // namespace surgery
