#pragma once
#include <string>
#include <string_view>

namespace surgery {

/// What Python's str.isspace and its regular expressions' \s take as whitespace.
bool is_space(char32_t code);
/// What its \w and \d take: letters, numbers and '_'; decimal digits of any script.
bool is_word(char32_t code);
bool is_digit(char32_t code);
/// Upper case; of the sharp s two letters.
std::u32string to_upper(char32_t code);

/// Unicode's normal form C (canonical composition), by utf8proc.
std::u32string to_nfc(std::u32string_view text);
/// Normal form KC (compatibility composition) of one character.
std::u32string to_nfkc(char32_t code);

}  // namespace surgery
