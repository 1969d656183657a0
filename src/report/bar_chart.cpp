#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

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

constexpr double kLine = 15, kMostLines = 3;
constexpr double kRise = 0.57, kRun = 0.82;  // of slanted labels, per pixel of length

double widest(const std::vector<std::string>& texts) {
  double width = 0;
  for (const auto& text : texts) width = std::max(width, text_width(text));
  return width;
}

/// Words gathered into lines of at most `room`; a longer word stands alone.
std::vector<std::string> wrapped(const std::string& text, double room) {
  std::vector<std::string> lines;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (!lines.empty() && text_width(lines.back() + " " + word) <= room) {
      lines.back() += " " + word;
    } else {
      lines.push_back(word);
    }
  }
  return lines;
}

/// The categories' names below the bars: on up to three lines, or slanted where that does not fit.
struct CategoryLabels {
  std::vector<std::vector<std::string>> lines;
  bool slanted = false;
  double height = 34, least_left = 0;

  explicit CategoryLabels(const std::vector<std::string>& names) {
    const double room = 0.88 * kChartWidth / static_cast<double>(std::max<size_t>(1, names.size())) - 4;
    size_t most = 1;
    for (const auto& name : names) {
      lines.push_back(wrapped(name, room));
      most = std::max(most, lines.back().size());
      slanted = slanted || widest(lines.back()) > room;
    }
    slanted = slanted || static_cast<double>(most) > kMostLines;
    height = slanted ? 26 + widest(names) * kRise : 20 + kLine * static_cast<double>(most);
    if (slanted) least_left = std::max(0.0, text_width(names.front()) * kRun - room / 2 + 4);
  }

  std::string at(size_t category, const std::string& name, double x, double y) const {
    if (slanted) {
      return fmt::format(
          "<text class=\"tick\" text-anchor=\"end\" transform=\"translate({:.1f} {:.1f}) "
          "rotate(-35)\">{}</text>",
          x + 4, y + 16, escape_html(name));
    }
    std::string markup;
    for (size_t i = 0; i < lines[category].size(); ++i) {
      markup += fmt::format("<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                            x, y + 19 + kLine * static_cast<double>(i), escape_html(lines[category][i]));
    }
    return markup;
  }
};

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
  const CategoryLabels labels(chart.categories);
  Canvas canvas(y, chart.y, legend, labels.height, labels.least_left);
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
    canvas.add(labels.at(group, chart.categories[group], middle, canvas.bottom()));
  }
  return canvas.finish();
}

}  // namespace surgery
