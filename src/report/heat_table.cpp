#include <algorithm>
#include <set>

#include "base/errors.h"
#include "report/chart.h"
#include "report/text.h"

namespace surgery {

std::string heat_table_html(const HeatTable& table) {
  EXPECT(table.values.size() == table.rows.size());
  std::vector<double> all;
  for (const auto& row : table.values) {
    EXPECT(row.size() == table.columns.size());
    all.insert(all.end(), row.begin(), row.end());
  }
  // The ends of the shading are the values themselves, not round numbers.
  AxisOptions options{"", table.scale, false, {}, {}};
  const Axis rounded(options, all);
  double least = rounded.high(), most = rounded.low();
  for (const double value : all) {
    if (!rounded.shows(value)) continue;
    least = std::min(least, value);
    most = std::max(most, value);
  }
  if (least < most) options.low = least, options.high = most;
  const Axis shade(options, all);
  const std::set<std::pair<int64_t, int64_t>> marked(table.marked.begin(), table.marked.end());

  std::string html =
      "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>" + escape_html(table.corner) + "</th>";
  for (const auto& column : table.columns) html += "<th class=\"right\">" + escape_html(column) + "</th>";
  html += "</tr></thead><tbody>\n";
  for (size_t r = 0; r < table.rows.size(); ++r) {
    html += "<tr><th>" + escape_html(table.rows[r]) + "</th>";
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const double value = table.values[r][c];
      const bool framed = marked.contains({static_cast<int64_t>(r), static_cast<int64_t>(c)});
      html += fmt::format("<td class=\"right{}\"", framed ? " marked" : "");
      if (shade.shows(value))
        html += fmt::format(" style=\"--v:{:.0f}%\"", 100 * std::clamp(shade.position(value), 0., 1.));
      html += ">" + format_number(value, table.digits) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

}  // namespace surgery
