#include "report/chart.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/errors.h"
#include "report/axis.h"
#include "report/text.h"

namespace surgery {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

/// Every number that the drawing holds is finite, and every element is closed: a browser can draw it.
void expect_drawable(const std::string& svg) {
  EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
  EXPECT_EQ(svg.find("inf\""), std::string::npos) << svg;
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
  EXPECT_EQ(count(svg, "<svg"), count(svg, "</svg>"));
}

Series series(const std::string& name, std::vector<double> x, std::vector<double> y, Series::Mark mark) {
  Series result;
  result.name = name;
  result.x = std::move(x);
  result.y = std::move(y);
  result.mark = mark;
  return result;
}

TEST(Axis, EndsAtRoundNumbers) {
  const std::vector<double> values{0.13, 0.87};
  const Axis axis({}, values);
  EXPECT_NEAR(axis.low(), 0, 1e-12);
  EXPECT_NEAR(axis.high(), 1, 1e-12);
  EXPECT_EQ(axis.ticks().size(), 6u);
  EXPECT_DOUBLE_EQ(axis.position(axis.low()), 0);
  EXPECT_DOUBLE_EQ(axis.position(axis.high()), 1);
}

TEST(Axis, HoldsEveryValueItWasFittedTo) {
  for (const auto scale : {Scale::linear, Scale::logarithmic}) {
    for (const std::vector<double>& values : std::vector<std::vector<double>>{{1, 2, 3},
                                                                              {1e-7, 3e4},
                                                                              {5, 5},
                                                                              {0.999, 1.001},
                                                                              {1e12, 1.3e12},
                                                                              {49, 51},
                                                                              {1},
                                                                              {2, 5},
                                                                              {0.03, 0.031}}) {
      AxisOptions options;
      options.scale = scale;
      const Axis axis(options, values);
      EXPECT_GE(axis.ticks().size(), 2u) << values.front();
      EXPECT_LE(axis.ticks().size(), 12u) << values.front();
      for (const double value : values) {
        EXPECT_GE(axis.position(value), -1e-9) << value;
        EXPECT_LE(axis.position(value), 1 + 1e-9) << value;
      }
      for (const double tick : axis.ticks()) {
        EXPECT_GE(axis.position(tick), -1e-9) << tick;
        EXPECT_LE(axis.position(tick), 1 + 1e-9) << tick;
      }
    }
  }
}

TEST(Axis, IgnoresWhatItCannotShow) {
  AxisOptions options;
  options.scale = Scale::logarithmic;
  const std::vector<double> values{0, -3, kNaN, 10, 100};
  const Axis axis(options, values);
  EXPECT_NEAR(axis.low(), 10, 1e-9);
  EXPECT_FALSE(axis.shows(0));
  EXPECT_FALSE(axis.shows(kNaN));
  EXPECT_GE(Axis({}, {}).ticks().size(), 2u);
}

TEST(Plot, DrawsACurveAndBreaksItWhereValuesAreMissing) {
  Plot plot;
  plot.series.push_back(series("loss <student>", {0, 1, 2, 3, 4}, {5, 4, kNaN, 3, 2}, Series::Mark::line));
  const auto svg = plot_svg(plot);
  expect_drawable(svg);
  EXPECT_NE(svg.find("loss &lt;student&gt;"), std::string::npos);
  const auto begin = svg.find("d=\"M");
  const auto path = svg.substr(begin, svg.find('"', begin + 3) - begin);
  EXPECT_EQ(count(path, "M"), 2u);
  EXPECT_EQ(count(path, "L"), 2u);
}

TEST(Plot, DrawsPointsWithIntervalsLabelsAndReferenceLines) {
  Plot plot;
  auto points = series("students", {1, 2, 3}, {0.5, 0.6, 0.9}, Series::Mark::points);
  points.low = {0.4, 0.5, 0.8};
  points.high = {0.6, 0.7, 0.95};
  points.labels = {"R8", "R4", "R2"};
  points.draw_labels = true;
  plot.series.push_back(points);
  plot.horizontal.push_back({0.97, "teacher"});
  const auto svg = plot_svg(plot);
  expect_drawable(svg);
  EXPECT_EQ(count(svg, "class=\"interval\""), 3u);
  EXPECT_EQ(count(svg, ">R4</text>"), 1u);
  EXPECT_NE(svg.find(">teacher</text>"), std::string::npos);
}

TEST(Plot, KeepsSpikesOfLongCurves) {
  std::vector<double> x(100000), y(100000, 1.0);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
  y[54321] = 9;
  Plot plot;
  plot.series.push_back(series("", x, y, Series::Mark::line));
  plot.y.low = 0;
  plot.y.high = 9;
  const auto svg = plot_svg(plot);
  EXPECT_LT(svg.size(), 40000u);
  EXPECT_NE(svg.find(" 14.0L"), std::string::npos) << "the spike reaches the top of the plot";
}

TEST(Plot, EmptyAndUnshowableDataGiveAnEmptyChart) {
  expect_drawable(plot_svg({}));
  Plot plot;
  plot.x.scale = plot.y.scale = Scale::logarithmic;
  plot.series.push_back(series("nothing", {0, -1}, {kNaN, 1}, Series::Mark::line_and_points));
  const auto svg = plot_svg(plot);
  expect_drawable(svg);
  EXPECT_EQ(count(svg, "<path"), 0u);
}

TEST(Plot, RefusesLengthsThatDiffer) {
  Plot plot;
  plot.series.push_back(series("", {1, 2}, {1}, Series::Mark::line));
  EXPECT_THROW(plot_svg(plot), Error);
}

TEST(BarChart, DrawsEveryValueOnceAndSkipsMissingOnes) {
  BarChart chart;
  chart.categories = {"teacher", "50 % R2", "a & b"};
  chart.series = {{"before", {0.98, kNaN, 0.4}, {}, {}},
                  {"after", {0.98, 0.9, 0.7}, {0.95, 0.85, 0.6}, {0.99, 0.95, 0.8}}};
  const auto svg = bar_chart_svg(chart);
  expect_drawable(svg);
  EXPECT_EQ(count(svg, "<rect"), 5u);
  EXPECT_EQ(count(svg, "class=\"interval\""), 3u);
  EXPECT_NE(svg.find("a &amp; b"), std::string::npos);
  chart.series[0].values.pop_back();
  EXPECT_THROW(bar_chart_svg(chart), Error);
  expect_drawable(bar_chart_svg({}));
}

TEST(BarChart, NamesThatDoNotFitAreWrappedAndLongWordsSlanted) {
  BarChart chart;
  chart.categories = {"trajectories of the teacher", "block distillation", "tables", "selection",
                      "finetuning"};
  chart.series = {{"", {1, 2, 3, 4, 5}, {}, {}}};
  const auto wrapped = bar_chart_svg(chart);
  EXPECT_EQ(wrapped.find("rotate(-35)"), std::string::npos);
  EXPECT_NE(wrapped.find(">distillation</text>"), std::string::npos);
  chart.categories[0] = "a-name-of-a-single-word-that-is-long";
  EXPECT_EQ(count(bar_chart_svg(chart), "rotate(-35)"), 5u);
}

TEST(HeatTable, ShadesFromLeastToGreatestAndFramesTheMarked) {
  HeatTable table;
  table.corner = "block";
  table.rows = {"0", "1"};
  table.columns = {"R2", "linear"};
  table.values = {{0.01, 0.1}, {0.1, kNaN}};
  table.scale = Scale::logarithmic;
  table.marked = {{0, 1}};
  const auto html = heat_table_html(table);
  EXPECT_EQ(count(html, "--v:0%"), 1u);
  EXPECT_EQ(count(html, "--v:100%"), 2u);
  EXPECT_EQ(count(html, "marked"), 1u);
  EXPECT_NE(html.find("–"), std::string::npos);
  table.values = {{0.5, 0.5}, {0.5, 0.5}};  // no spread to shade
  expect_drawable(heat_table_html(table));
}

TEST(Text, NumbersReadWell) {
  EXPECT_EQ(format_number(0), "0");
  EXPECT_EQ(format_number(-0.0), "0");
  EXPECT_EQ(format_number(0.25), "0.25");
  EXPECT_EQ(format_number(12.3456), "12.35");
  EXPECT_EQ(format_number(-3), "-3");
  EXPECT_EQ(format_number(9999), "9999");
  EXPECT_EQ(format_number(32760), "32.76 k");
  EXPECT_EQ(format_number(1.978e14), "197.8 T");
  EXPECT_EQ(format_number(0.00012), "1.2e-4");
  EXPECT_EQ(format_number(kNaN), "–");
}

TEST(Text, EscapesMarkupAndForeignBytes) {
  EXPECT_EQ(escape_html("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(escape_html("ünï→"), "ünï→");
  EXPECT_EQ(escape_html(std::string("a\0b", 3)),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(escape_html("a\xFFz"), "a\xEF\xBF\xBDz");
}

TEST(Text, Base64OfTheStandardsExamples) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64(std::string("\xFF\xFE\x00", 3)), "//4A");
}

}  // namespace
}  // namespace surgery
