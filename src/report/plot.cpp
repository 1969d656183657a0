#include <algorithm>
#include <array>

#include "base/errors.h"
#include "report/chart.h"
#include "report/svg.h"
#include "report/text.h"

namespace surgery {
namespace {

constexpr size_t kMostPoints = 1200;  // of one curve: about twice the chart's width in pixels

constexpr size_t kFine = 300;  // points from which on a curve is drawn thin, or noise would blot it

using Indices = std::vector<size_t>;

void check(const Series& series) {
  const size_t count = series.x.size();
  EXPECT(series.y.size() == count);
  EXPECT(series.labels.empty() || series.labels.size() == count);
  EXPECT(series.low.size() == series.high.size() && (series.low.empty() || series.low.size() == count));
}

/// Colours come round again after the last; the second round is dashed.
bool dashed(const Series& series, size_t colour) {
  return series.dashed || colour >= kSeriesColours;
}

/// Which points of a curve to draw: all, or each bucket's least and greatest, so that no spike is lost.
Indices thinned(const Series& series) {
  Indices all(series.x.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  if (all.size() <= kMostPoints) return all;
  Indices kept;
  const size_t buckets = kMostPoints / 2;
  for (size_t bucket = 0; bucket < buckets; ++bucket) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(bucket * all.size() / buckets);
    const auto end = all.begin() + static_cast<std::ptrdiff_t>((bucket + 1) * all.size() / buckets);
    const auto [least, most] =
        std::minmax_element(begin, end, [&](size_t a, size_t b) { return series.y[a] < series.y[b]; });
    kept.push_back(std::min(*least, *most));
    if (*least != *most) kept.push_back(std::max(*least, *most));
  }
  return kept;
}

class Drawing {
 public:
  Drawing(Canvas& canvas, const Axis& x, const Axis& y) : canvas_(canvas), x_(x), y_(y) {}

  void curve(const Series& series, size_t colour) {
    std::string path;
    bool pen_down = false;
    double before = 0;
    for (const size_t i : thinned(series)) {
      if (!shown(series, i)) {
        pen_down = false;
        continue;
      }
      const auto [px, py] = place(series, i);
      if (pen_down && series.mark == Series::Mark::steps) path += fmt::format("L{:.1f} {:.1f}", px, before);
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? 'L' : 'M', px, py);
      pen_down = true;
      before = py;
    }
    if (path.empty()) return;
    canvas_.add(fmt::format("<path class=\"s{} curve{}{}\" d=\"{}\"/>", colour % kSeriesColours,
                            dashed(series, colour) ? " dashed" : "", series.x.size() > kFine ? " fine" : "",
                            path));
  }

  void points(const Series& series, size_t colour) {
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (!shown(series, i)) continue;
      const auto [px, py] = place(series, i);
      if (!series.low.empty() && y_.shows(series.low[i]) && y_.shows(series.high[i])) {
        canvas_.add_interval(px, canvas_.y_at(y_.position(series.low[i])),
                             canvas_.y_at(y_.position(series.high[i])));
      }
      auto hint = fmt::format("({}, {})", format_number(series.x[i]), format_number(series.y[i]));
      if (!series.labels.empty()) hint = escape_html(series.labels[i]) + " " + hint;
      if (!series.name.empty()) hint = escape_html(series.name) + ": " + hint;
      canvas_.add(fmt::format(
          "<circle class=\"s{} dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"><title>{}</title></circle>",
          colour % kSeriesColours, px, py, hint));
    }
  }

  /// To the right of the point, else to its left, else not at all: labels must not cover each other.
  void labels(const Series& series) {
    for (size_t i = 0; i < series.labels.size(); ++i) {
      if (!shown(series, i)) continue;
      const auto [px, py] = place(series, i);
      const double width = text_width(series.labels[i]);
      for (const double left : {px + 8, px - 8 - width}) {
        const Box box{left, py - 8, left + width, py + 6};
        const bool inside = box.left >= canvas_.left() && box.right <= canvas_.right();
        if (!inside ||
            std::any_of(taken_.begin(), taken_.end(), [&](const Box& other) { return box.meets(other); })) {
          continue;
        }
        taken_.push_back(box);
        canvas_.add(fmt::format("<text class=\"note\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", left, py + 4,
                                escape_html(series.labels[i])));
        break;
      }
    }
  }

 private:
  struct Box {
    double left, top, right, bottom;
    bool meets(const Box& o) const {
      return left < o.right && o.left < right && top < o.bottom && o.top < bottom;
    }
  };
  bool shown(const Series& series, size_t i) const { return x_.shows(series.x[i]) && y_.shows(series.y[i]); }
  std::pair<double, double> place(const Series& series, size_t i) const {
    return {canvas_.x_at(x_.position(series.x[i])), canvas_.y_at(y_.position(series.y[i]))};
  }

  Canvas& canvas_;
  const Axis& x_;
  const Axis& y_;
  std::vector<Box> taken_;
};

}  // namespace

std::string plot_svg(const Plot& plot) {
  std::vector<double> xs, ys;
  std::vector<Canvas::Entry> legend;
  for (const auto& series : plot.series) {
    check(series);
    xs.insert(xs.end(), series.x.begin(), series.x.end());
    for (const auto* values : std::array{&series.y, &series.low, &series.high}) {
      ys.insert(ys.end(), values->begin(), values->end());
    }
    legend.push_back(
        {series.name, legend.size(), dashed(series, legend.size()), series.mark != Series::Mark::points});
  }
  for (const auto& line : plot.horizontal) ys.push_back(line.value);
  const Axis x(plot.x, xs), y(plot.y, ys);
  Canvas canvas(y, plot.y, legend, plot.x.label.empty() ? 30 : 52);
  canvas.add_x_axis(x);
  canvas.add_x_label(plot.x.label);
  canvas.add_horizontal(y, plot.horizontal);
  Drawing drawing(canvas, x, y);
  for (size_t i = 0; i < plot.series.size(); ++i) {
    if (plot.series[i].mark != Series::Mark::points) drawing.curve(plot.series[i], i);
  }
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const auto mark = plot.series[i].mark;
    if (mark == Series::Mark::points || mark == Series::Mark::line_and_points)
      drawing.points(plot.series[i], i);
  }
  for (const auto& series : plot.series) {
    if (series.draw_labels) drawing.labels(series);
  }
  return canvas.finish();
}

}  // namespace surgery
