#include "app/command.h"

#include "base/text.h"
#include "recipe/config_table.h"

namespace surgery {
namespace {
template <class T>
T parse(const std::string& name, const std::string& text, const char* kind) {
  const auto value = parse_number<T>(text);
  if (!value) fail_usage("--{} = '{}' is not {}", name, text, kind);
  return *value;
}
}  // namespace

const std::string& CommandLine::text(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) fail_usage("--{} is missing", name);
  return found->second;
}

std::string CommandLine::text(const std::string& name, const std::string& otherwise) const {
  return has(name) ? values_.at(name) : otherwise;
}

int64_t CommandLine::integer(const std::string& name, int64_t otherwise) const {
  return has(name) ? parse<int64_t>(name, values_.at(name), "an integer") : otherwise;
}

double CommandLine::number(const std::string& name, double otherwise) const {
  return has(name) ? parse<double>(name, values_.at(name), "a number") : otherwise;
}

std::string CommandLine::to_text() const {
  std::string text;
  for (const auto& [name, value] : values_) text += fmt::format(" --{}={}", name, value);
  for (const std::string& word : positional_) text += " " + word;
  return text;
}

const Command& find_command(std::string_view name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (command.name == name) return command;
    names.push_back(command.name);
  }
  const std::string nearest = nearest_word(name, names);
  fail_usage("unknown command '{}'{}: surgery --help lists them", name,
             nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest));
}

}  // namespace surgery
