#include "wan/character_pattern.h"

#include <algorithm>

#include "wan/unicode.h"

namespace surgery {
namespace {

constexpr char32_t kLast = 0x10FFFF;

}  // namespace

CharacterSet::CharacterSet(std::u32string_view members) {
  std::vector<std::pair<char32_t, char32_t>> listed;
  for (size_t i = 0; i < members.size(); ++i) {
    const bool range = i + 2 < members.size() && members[i + 1] == U'-';
    listed.emplace_back(members[i], members[range ? i + 2 : i]);
    if (range) i += 2;
  }
  std::ranges::sort(listed);
  for (const auto& [first, last] : listed) {
    if (!ranges_.empty() && first <= ranges_.back().second + 1) {
      ranges_.back().second = std::max(ranges_.back().second, last);
    } else {
      ranges_.emplace_back(first, last);
    }
  }
}

CharacterSet CharacterSet::word() {
  CharacterSet set;
  set.word_ = true;
  return set;
}

CharacterSet CharacterSet::space() {
  CharacterSet set;
  for (char32_t code = 0; code <= 0x3000; ++code)
    if (is_space(code)) set = set | CharacterSet(std::u32string_view(&code, 1));
  return set;
}

CharacterSet CharacterSet::operator|(const CharacterSet& other) const {
  std::u32string members;
  for (const auto* set : {this, &other})
    for (const auto& [first, last] : set->ranges_) members += {first, U'-', last};
  CharacterSet both{std::u32string_view(members)};
  both.word_ = word_ || other.word_;
  return both;
}

CharacterSet CharacterSet::operator~() const {
  CharacterSet rest;
  char32_t next = 0;
  for (const auto& [first, last] : ranges_) {
    if (first > next) rest.ranges_.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= kLast) rest.ranges_.emplace_back(next, kLast);
  return rest;
}

bool CharacterSet::contains(char32_t code) const {
  const auto after = std::ranges::upper_bound(ranges_, code, {}, &std::pair<char32_t, char32_t>::first);
  return (after != ranges_.begin() && code <= std::prev(after)->second) || (word_ && is_word(code));
}

size_t match_at(const std::vector<CharacterPattern>& patterns, std::u32string_view text, size_t position) {
  for (const CharacterPattern& pattern : patterns) {
    if (pattern.size() > text.size() - position) continue;
    if (std::ranges::equal(pattern, text.substr(position, pattern.size()),
                           [](const CharacterSet& set, char32_t code) { return set.contains(code); }))
      return pattern.size();
  }
  return 0;
}

bool matches_anywhere(const std::vector<CharacterPattern>& patterns, std::u32string_view text) {
  for (size_t i = 0; i < text.size(); ++i)
    if (match_at(patterns, text, i) > 0) return true;
  return false;
}

std::u32string replace_matches(const std::vector<CharacterPattern>& patterns, std::u32string_view text,
                               const std::function<std::u32string(std::u32string_view)>& replacement) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = match_at(patterns, text, i);
    if (length > 0) {
      out += replacement(text.substr(i, length));
    } else {
      out += text[i];
    }
    i += std::max<size_t>(1, length);
  }
  return out;
}

}  // namespace surgery
