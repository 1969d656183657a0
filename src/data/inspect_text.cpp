#include <algorithm>

#include "data/inspect.h"

namespace surgery {

namespace {

using Json = nlohmann::ordered_json;

std::string value_text(const std::string& key, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const Json& item : value) {
    if (!text.empty()) text += key == "shape" ? "x" : ", ";
    text += value_text("", item);
  }
  return text;
}

bool is_table(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const Json& row) { return row.is_object(); });
}

/// Columns in the first row's order; keys of later rows that it lacks follow.
std::string table_text(const Json& rows, const std::string& indent) {
  std::vector<std::string> keys;
  for (const Json& row : rows)
    for (const auto& [key, value] : row.items())
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  std::vector<std::vector<std::string>> cells{keys};
  for (const Json& row : rows) {
    std::vector<std::string> line;
    for (const std::string& key : keys) line.push_back(row.contains(key) ? value_text(key, row[key]) : "");
    cells.push_back(std::move(line));
  }
  std::vector<size_t> widths(keys.size(), 0);
  for (const auto& line : cells)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  std::string text;
  for (const auto& line : cells) {
    std::string out = indent;
    for (size_t i = 0; i < line.size(); ++i) out += fmt::format("{:<{}}  ", line[i], widths[i]);
    out.erase(out.find_last_not_of(' ') + 1);
    text += out + "\n";
  }
  return text;
}

void append(const Json& object, const std::string& indent, std::string& text) {
  for (const auto& [key, value] : object.items()) {
    if (is_table(value)) {
      text += fmt::format("{}{}: {}\n{}", indent, key, value.size(), table_text(value, indent + "  "));
    } else if (value.is_object()) {
      text += fmt::format("{}{}:\n", indent, key);
      append(value, indent + "  ", text);
    } else {
      text += fmt::format("{}{}: {}\n", indent, key, value_text(key, value));
    }
  }
}

}  // namespace

std::string inspection_text(const nlohmann::ordered_json& inspection) {
  std::string text;
  append(inspection, "", text);
  return text;
}

}  // namespace surgery
