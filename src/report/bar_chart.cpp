#include <algorithm>
#include <array>
#include <cmath>

#include "base/errors.h"
#include "report/chart.h"
#include "report/svg.h"
#include "report/text.h"

namespace surgery {
namespace {

constexpr double kWidestBar = 56;
constexpr size_t kMostNumbers = 24;  // above so many bars their numbers would overlap

void check(const BarChart& chart) {
  for (const auto& series : chart.series) {
    EXPECT(series.values.size() == chart.categories.size());
    EXPECT(series.low.size() == series.high.size());
    EXPECT(series.low.empty() || series.low.size() == series.values.size());
  }
}

double widest(const std::vector<std::string>& texts) {
  double width = 0;
  for (const auto& text : texts) width = std::max(width, text_width(text));
  return width;
}

void add_bar(Canvas& canvas, const Axis& y, const BarSeries& series, size_t category, size_t colour, double x,
             double width, const std::string& hint, bool number) {
  const double value = series.values[category];
  if (!y.shows(value)) return;
  const double ground = canvas.y_at(std::clamp(y.shows(0) ? y.position(0) : 0.0, 0.0, 1.0));
  const double end = canvas.y_at(y.position(value));
  canvas.add(
      fmt::format("<rect class=\"s{} bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
                  "rx=\"2\"><title>{}: {}</title></rect>",
                  colour % kSeriesColours, x, std::min(ground, end), width, std::abs(end - ground), hint,
                  format_number(value)));
  double above = std::min(end, ground);
  if (!series.low.empty() && y.shows(series.low[category]) && y.shows(series.high[category])) {
    const double high = canvas.y_at(y.position(series.high[category]));
    canvas.add_interval(x + width / 2, canvas.y_at(y.position(series.low[category])), high);
    above = std::min(above, high);
  }
  if (!number) return;
  canvas.add(fmt::format("<text class=\"number\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                         x + width / 2, above - 5, format_number(value, 3)));
}

}  // namespace

std::string bar_chart_svg(const BarChart& chart) {
  check(chart);
  std::vector<double> ys;
  std::vector<Canvas::Entry> legend;
  for (const auto& series : chart.series) {
    for (const auto* values : std::array{&series.values, &series.low, &series.high}) {
      ys.insert(ys.end(), values->begin(), values->end());
    }
    legend.push_back({series.name, legend.size(), false, false});
  }
  for (const auto& line : chart.horizontal) ys.push_back(line.value);
  const Axis y(chart.y, ys);

  const size_t groups = std::max<size_t>(1, chart.categories.size()),
               bars = std::max<size_t>(1, chart.series.size());
  const double longest = widest(chart.categories);
  const bool slanted = longest > 640.0 / static_cast<double>(groups);  // does not fit below its group
  Canvas canvas(y, chart.y, legend, slanted ? std::min(120.0, 26 + longest * 0.6) : 34);
  const double room = (canvas.right() - canvas.left()) / static_cast<double>(groups);
  const double width = std::min(kWidestBar, room * 0.76 / static_cast<double>(bars));
  canvas.add_horizontal(y, chart.horizontal);
  for (size_t group = 0; group < chart.categories.size(); ++group) {
    const double middle = canvas.left() + room * (static_cast<double>(group) + 0.5);
    const auto name = escape_html(chart.categories[group]);
    for (size_t i = 0; i < chart.series.size(); ++i) {
      const double x = middle + width * (static_cast<double>(i) - static_cast<double>(bars) / 2);
      const auto hint = chart.series[i].name.empty() ? name : name + ", " + escape_html(chart.series[i].name);
      add_bar(canvas, y, chart.series[i], group, i, x + 1, width - 2, hint, groups * bars <= kMostNumbers);
    }
    canvas.add(
        slanted
            ? fmt::format("<text class=\"tick\" text-anchor=\"end\" transform=\"translate({:.1f} {:.1f}) "
                          "rotate(-35)\">{}</text>",
                          middle + 4, canvas.bottom() + 16, name)
            : fmt::format("<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                          middle, canvas.bottom() + 19, name));
  }
  return canvas.finish();
}

}  // namespace surgery
