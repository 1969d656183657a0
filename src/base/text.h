#pragma once
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace surgery {

/// The number that `text` is from its first character to its last; none when it is not one, or out of range.
template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

/// The parts between separators, one more than there are separators ("" has one, itself).
std::vector<std::string> split(std::string_view text, char separator);
std::string without_spaces(std::string_view text);
/// Without the white characters around it.
std::string_view trimmed(std::string_view text, std::string_view white = " \t");
/// With spaces for its tabs and ends of lines: a field of a table of lines.
std::string one_line(std::string text);
/// A name that is there twice, the first in sorting order, as the caller's view; none where all differ.
std::optional<std::string_view> first_repeated(std::vector<std::string_view> names);

}  // namespace surgery
