#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace surgery {

/// Characters (or bytes, as characters below 256), written as in a regular expression's brackets: "a-z_".
class CharacterSet {
 public:
  CharacterSet(std::u32string_view members);  // NOLINT: a pattern reads as the characters it is made of
  CharacterSet(const char32_t* members) : CharacterSet(std::u32string_view(members)) {}  // NOLINT
  static CharacterSet word();  ///< is_word of wan/unicode.h
  static CharacterSet space();
  CharacterSet operator|(const CharacterSet& other) const;
  CharacterSet operator~() const;
  bool contains(char32_t code) const;

 private:
  CharacterSet() = default;
  std::vector<std::pair<char32_t, char32_t>> ranges_;  ///< first and last of each, ascending, apart
  bool word_ = false;
};

/// One set for each character of the text that matches.
using CharacterPattern = std::vector<CharacterSet>;

/// Length of the first of `patterns` that matches at `position`; 0 if none does.
size_t match_at(const std::vector<CharacterPattern>& patterns, std::u32string_view text, size_t position);
bool matches_anywhere(const std::vector<CharacterPattern>& patterns, std::u32string_view text);
/// Every match, from the left, replaced.
std::u32string replace_matches(const std::vector<CharacterPattern>& patterns, std::u32string_view text,
                               const std::function<std::u32string(std::u32string_view)>& replacement);

}  // namespace surgery
