#include "storage/strict_json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/errors.h"
#include "storage/atomic_file.h"

namespace surgery {

nlohmann::json parse_strict_json(std::string_view text, const std::string& where, int depth_limit) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> open_objects;
  const auto check = [&](int depth, Event event, nlohmann::json& parsed) {
    if (event == Event::object_start || event == Event::array_start)
      VALIDATE(depth < depth_limit,
               "{}: JSON is nested deeper than {} (damaged or hostile file): check its source", where,
               depth_limit);
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key)
      VALIDATE(open_objects.back().insert(parsed.get<std::string>()).second,
               "{}: key \"{}\" occurs twice (readers would disagree about the content): write the file again",
               where, parsed.get<std::string>());
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::exception& error) {
    fail_data("{}: not valid JSON (damaged or foreign file): {}", where, error.what());
  }
}

nlohmann::json read_json_file(const std::string& path, int depth_limit) {
  return parse_strict_json(read_file(path, 100'000'000), path, depth_limit);
}

}  // namespace surgery
