#pragma once
#include <string>
#include <utility>
#include <vector>

#include "report/axis.h"

namespace surgery {

// Charts as inline SVG for report/html.h's page, whose style sheet gives the colours (light and dark). Plain
// data in, markup out. Values that an axis cannot show (not finite, or not positive on a logarithmic axis)
// leave a gap. Names and labels are escaped. Throws Error{internal} where lengths that belong together
// differ.

/// A dashed line across the chart, such as the teacher's score.
struct ReferenceLine {
  double value = 0;
  std::string label;
};

struct Series {
  enum class Mark { line, points, line_and_points, steps };
  std::string name;  ///< empty: not in the legend
  std::vector<double> x, y;
  std::vector<double> low, high = {};    ///< empty, or an interval per point
  std::vector<std::string> labels = {};  ///< empty, or one per point: shown on hovering
  Mark mark = Mark::line;
  bool dashed = false;
  bool draw_labels = false;  ///< write the labels beside the points, where there is room
};

/// Lines and scatter charts.
struct Plot {
  AxisOptions x, y;
  std::vector<Series> series;
  std::vector<ReferenceLine> horizontal;
};
std::string plot_svg(const Plot& plot);

struct BarSeries {
  std::string name;
  std::vector<double> values;          ///< one per category
  std::vector<double> low, high = {};  ///< empty, or an interval per value
};

/// Grouped bars.
struct BarChart {
  std::vector<std::string> categories;
  std::vector<BarSeries> series;
  AxisOptions y{"", Scale::linear, true, {}, {}};
  std::vector<ReferenceLine> horizontal;
};
std::string bar_chart_svg(const BarChart& chart);

/// A table whose cells are shaded by their value, such as error per block and rate. HTML, not SVG.
struct HeatTable {
  std::string corner;  ///< heading of the row labels
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> values;  ///< [rows][columns]; what is not finite is an empty cell
  Scale scale = Scale::linear;              ///< of the shading
  int digits = 3;
  std::vector<std::pair<int64_t, int64_t>> marked = {};  ///< cells with a frame, such as the selected rates
};
std::string heat_table_html(const HeatTable& table);

}  // namespace surgery
