#include "recipe/ledger.h"

#include <fmt/format.h>

#include <map>
#include <sstream>

#include "storage/atomic_file.h"

namespace surgery {

std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  if (!std::filesystem::exists(path)) return lines;
  std::istringstream stream(read_file(path));
  for (std::string line; std::getline(stream, line);) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object()) lines.push_back(std::move(json));
  }
  return lines;
}

Table ledger_table(const std::filesystem::path& ledger) {
  struct Sum {
    int64_t calls = 0, made = 0;
    double device_seconds = 0;
    nlohmann::json last;
  };
  std::vector<std::string> order;
  std::map<std::string, Sum> sums;
  double total = 0;
  for (const auto& line : read_json_lines(ledger)) {
    const std::string stage = line.value("stage", "");
    if (!sums.contains(stage)) order.push_back(stage);
    Sum& sum = sums[stage];
    ++sum.calls;
    sum.made += line.value("made", int64_t{0});
    sum.device_seconds += line.value("device_seconds", 0.0);
    total += line.value("device_seconds", 0.0);
    sum.last = line;
  }
  Table table;
  table.columns = {{"stage", false},   {"calls", true},  {"device-seconds", true},
                   {"made", true},     {"ranks", true},  {"device", false},
                   {"outcome", false}, {"reused", true}, {"left", true}};
  const auto number = [](const nlohmann::json& line, const char* name) {
    return line.contains(name) ? std::to_string(line.value(name, int64_t{0})) : std::string("–");
  };
  for (const std::string& stage : order) {
    const Sum& sum = sums[stage];
    table.rows.push_back({stage, std::to_string(sum.calls), fmt::format("{:.1f}", sum.device_seconds),
                          std::to_string(sum.made), number(sum.last, "ranks"), sum.last.value("device", ""),
                          sum.last.value("outcome", ""), number(sum.last, "reused"),
                          number(sum.last, "left")});
  }
  table.caption = fmt::format(
      "{:.0f} device-seconds in all. Calls, device-seconds and made count every call; the rest is the last "
      "one's. Calls that were killed have left no line.",
      total);
  return table;
}

}  // namespace surgery
