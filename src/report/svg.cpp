#include "report/svg.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/text.h"

namespace surgery {
namespace {

constexpr double kWidth = kChartWidth, kHeight = 350, kMargin = 14, kTickRoom = 8, kRow = 20;

}  // namespace

double text_width(const std::string& text) {
  double width = 0;
  for (const char c : text) {
    // Bytes after the first of a UTF-8 character take no room.
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) width += 7;
  }
  return width;
}

Canvas::Canvas(const Axis& y, const AxisOptions& y_options, const std::vector<Entry>& legend, double bottom,
               double least_left) {
  double widest = 0;
  for (const double tick : y.ticks()) widest = std::max(widest, text_width(format_number(tick, 6)));
  left_ = kMargin + widest + kTickRoom + (y_options.label.empty() ? 0 : 22);
  left_ = std::max(left_, least_left);
  right_ = kWidth - kMargin;
  bottom_ = kHeight - bottom;
  top_ = add_legend(legend);
  for (const double tick : y.ticks()) {
    const double at = y_at(y.position(tick));
    add(fmt::format("<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", left_,
                    right_, at, at));
    add(fmt::format("<text class=\"tick\" text-anchor=\"end\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                    left_ - kTickRoom, at + 4, format_number(tick, 6)));
  }
  if (!y_options.label.empty()) {
    add(
        fmt::format("<text class=\"axis\" text-anchor=\"middle\" transform=\"translate({:.1f} {:.1f}) "
                    "rotate(-90)\">{}</text>",
                    kMargin + 4, (top_ + bottom_) / 2, escape_html(y_options.label)));
  }
}

/// Entries in rows above the plot; returns where the plot begins.
double Canvas::add_legend(const std::vector<Entry>& legend) {
  double x = left_, y = kMargin + 4;
  bool any = false;
  for (const auto& entry : legend) {
    if (entry.name.empty()) continue;
    const double width = 24 + text_width(entry.name) + 16;
    if (any && x + width > right_) {
      x = left_;
      y += kRow;
    }
    any = true;
    const auto colour = entry.colour % kSeriesColours;
    if (entry.line) {
      add(fmt::format("<line class=\"s{} curve{}\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>",
                      colour, entry.dashed ? " dashed" : "", x, x + 18, y, y));
    } else {
      add(fmt::format("<circle class=\"s{} dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\"/>", colour, x + 9, y));
    }
    add(fmt::format("<text class=\"legend\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", x + 24, y + 4,
                    escape_html(entry.name)));
    x += width;
  }
  return any ? y + kRow : kMargin;
}

void Canvas::add_x_axis(const Axis& x) {
  double free_from = 0;
  for (const double tick : x.ticks()) {
    const double at = x_at(x.position(tick));
    add(fmt::format("<line class=\"notch\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", at, at,
                    bottom_, bottom_ + 4));
    const auto text = format_number(tick, 6);
    if (at - text_width(text) / 2 < free_from) continue;  // labels never overlap
    free_from = at + text_width(text) / 2 + 8;
    add(fmt::format("<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", at,
                    bottom_ + 18, text));
  }
}

void Canvas::add_x_label(const std::string& label) {
  if (label.empty()) return;
  add(fmt::format("<text class=\"axis\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                  (left_ + right_) / 2, kHeight - 8, escape_html(label)));
}

void Canvas::add_horizontal(const Axis& y, const std::vector<ReferenceLine>& lines) {
  for (const auto& line : lines) {
    if (!y.shows(line.value)) continue;
    const double at = y_at(y.position(line.value));
    add(fmt::format("<line class=\"reference\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>",
                    left_, right_, at, at));
    add(fmt::format("<text class=\"note\" text-anchor=\"end\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                    right_ - 4, at - 5, escape_html(line.label)));
  }
}

void Canvas::add_interval(double x, double low, double high) {
  add(fmt::format(
      "<path class=\"interval\" d=\"M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {1:.1f}h8M{3:.1f} {2:.1f}h8\"/>", x, low,
      high, x - 4));
}

std::string Canvas::finish() const {
  return fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\">{}<line class=\"base\" x1=\"{:.1f}\" "
      "x2=\"{:.1f}\" "
      "y1=\"{:.1f}\" y2=\"{:.1f}\"/></svg>\n",
      kWidth, kHeight, body_, left_, right_, bottom_, bottom_);
}

}  // namespace surgery
