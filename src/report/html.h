#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace surgery {

/// A number that should be seen first.
struct Tile {
  std::string label, value, note;
};

struct TableColumn {
  std::string name;
  bool numeric = true;  ///< right-aligned figures
};

struct Table {
  std::vector<TableColumn> columns;
  std::vector<std::vector<std::string>> rows;  ///< as many cells as columns
  std::string caption;
  std::vector<size_t> emphasised = {};  ///< rows set in bold, such as the chosen one
};

/// One row of videos to compare, such as a prompt's teacher and students.
struct VideoRow {
  struct Cell {
    std::string caption;
    std::string mp4;  ///< the file's bytes; empty: a placeholder says that it is not there
  };
  std::string title;
  std::vector<Cell> cells;
};

/// One self-contained HTML page: style, charts and videos inside, nothing fetched, readable in light and dark
/// and in print. Content goes in order, top to bottom. All text is escaped; `figure` alone takes markup
/// (report/chart.h's).
class Page {
 public:
  Page(std::string title, std::string subtitle);

  /// Starts a section; it appears in the contents.
  void section(const std::string& heading);
  void text(const std::string& paragraph);
  /// A statement that must not be overlooked (a shortfall, a warning).
  void notice(const std::string& paragraph);
  void tiles(const std::vector<Tile>& tiles);
  void table(const Table& table);  ///< Error{internal} for a row of another length than the columns
  void figure(const std::string& markup, const std::string& caption);
  /// Two or more figures side by side where the window is wide enough: (markup, caption).
  void figures(const std::vector<std::pair<std::string, std::string>>& items);
  void videos(const std::vector<VideoRow>& rows);
  void code(const std::string& text);
  /// Long text that opens on a click.
  void fold(const std::string& summary, const std::string& text);

  std::string html() const;
  /// Writes the page atomically. Throws Error{io}.
  void write(const std::filesystem::path& path) const;

 private:
  std::string title_, subtitle_, body_;
  std::vector<std::string> headings_;
  bool has_videos_ = false;
};

}  // namespace surgery
