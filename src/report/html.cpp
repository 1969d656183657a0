#include "report/html.h"

#include <algorithm>

#include "base/errors.h"
#include "report/page_style.h"
#include "report/text.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr size_t kLongCell = 48;  // characters from which on a cell's text may break

std::string figure_html(const std::string& markup, const std::string& caption) {
  const auto below = caption.empty() ? "" : "<figcaption>" + escape_html(caption) + "</figcaption>";
  return "<figure>" + markup + below + "</figure>\n";
}

std::string cell_html(const VideoRow::Cell& cell) {
  const auto picture = cell.mp4.empty()
                           ? std::string("<div class=\"absent\">not there</div>")
                           : "<video muted loop playsinline preload=\"auto\" src=\"data:video/mp4;base64," +
                                 base64(cell.mp4) + "\"></video>";
  return "<div class=\"cell\">" + picture + escape_html(cell.caption) + "</div>";
}

}  // namespace

Page::Page(std::string title, std::string subtitle)
    : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

void Page::section(const std::string& heading) {
  if (!headings_.empty()) body_ += "</section>\n";
  headings_.push_back(heading);
  body_ += fmt::format("<section id=\"part-{}\"><h2>{}</h2>\n", headings_.size(), escape_html(heading));
}

void Page::text(const std::string& paragraph) {
  body_ += "<p>" + escape_html(paragraph) + "</p>\n";
}

void Page::notice(const std::string& paragraph) {
  body_ += "<p class=\"notice\">" + escape_html(paragraph) + "</p>\n";
}

void Page::tiles(const std::vector<Tile>& tiles) {
  body_ += "<div class=\"tiles\">\n";
  for (const auto& tile : tiles) {
    body_ += "<div class=\"tile\"><div class=\"label\">" + escape_html(tile.label) +
             "</div><div class=\"value\">" + escape_html(tile.value) + "</div><div class=\"note\">" +
             escape_html(tile.note) + "</div></div>\n";
  }
  body_ += "</div>\n";
}

void Page::table(const Table& table) {
  std::string html = "<div class=\"scroll\"><table><thead><tr>";
  for (const auto& column : table.columns) {
    html +=
        std::string(column.numeric ? "<th class=\"right\">" : "<th>") + escape_html(column.name) + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (size_t row = 0; row < table.rows.size(); ++row) {
    EXPECT(table.rows[row].size() == table.columns.size());
    const bool strong =
        std::find(table.emphasised.begin(), table.emphasised.end(), row) != table.emphasised.end();
    html += strong ? "<tr class=\"strong\">" : "<tr>";
    for (size_t i = 0; i < table.columns.size(); ++i) {
      const auto& cell = table.rows[row][i];
      html += table.columns[i].numeric  ? "<td class=\"right\">"
              : cell.size() > kLongCell ? "<td class=\"wrap\">"
                                        : "<td>";
      html += escape_html(cell) + "</td>";
    }
    html += "</tr>\n";
  }
  body_ += figure_html(html + "</tbody></table></div>", table.caption);
}

void Page::figure(const std::string& markup, const std::string& caption) {
  body_ += figure_html(markup, caption);
}

void Page::figures(const std::vector<std::pair<std::string, std::string>>& items) {
  body_ += "<div class=\"pair\">\n";
  for (const auto& [markup, caption] : items) body_ += figure_html(markup, caption);
  body_ += "</div>\n";
}

void Page::videos(const std::vector<VideoRow>& rows) {
  for (const auto& row : rows) {
    has_videos_ = true;
    body_ += "<div class=\"videos\"><div class=\"head\"><span>" + escape_html(row.title) +
             "</span><button type=\"button\">Play together</button></div><div class=\"cells\">\n";
    for (const auto& cell : row.cells) body_ += cell_html(cell) + "\n";
    body_ += "</div></div>\n";
  }
}

void Page::code(const std::string& text) {
  body_ += "<pre>" + escape_html(text) + "</pre>\n";
}

void Page::fold(const std::string& summary, const std::string& text) {
  body_ += "<details><summary>" + escape_html(summary) + "</summary><pre>" + escape_html(text) +
           "</pre></details>\n";
}

std::string Page::html() const {
  std::string contents;
  for (size_t i = 0; i < headings_.size(); ++i) {
    contents += fmt::format("<a href=\"#part-{}\">{}</a>", i + 1, escape_html(headings_[i]));
  }
  if (!contents.empty()) contents = "<nav>" + contents + "</nav>\n";
  const auto title = escape_html(title_);
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
         "content=\"width=device-width, initial-scale=1\"><title>" +
         title + "</title><style>" + kPageStyle + "</style></head>\n<body><main><header><h1>" + title +
         "</h1><p>" + escape_html(subtitle_) + "</p></header>\n" + contents + body_ +
         (headings_.empty() ? "" : "</section>\n") + "</main>" +
         (has_videos_ ? std::string("<script>") + kVideoScript + "</script>" : "") + "</body></html>\n";
}

void Page::write(const std::filesystem::path& path) const {
  write_file(path, html());
}

}  // namespace surgery
