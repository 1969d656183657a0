#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace surgery {

/// Position of the first byte that is not part of well-formed UTF-8 (overlong forms, surrogates and values
/// above U+10FFFF are not); std::string_view::npos when all of it is.
size_t find_utf8_error(std::string_view text);

/// Appends a code point (no surrogate) as UTF-8.
void append_utf8(std::string& text, char32_t code_point);

/// Code points of well-formed UTF-8 (see find_utf8_error), and back.
std::u32string from_utf8(std::string_view text);
std::string to_utf8(std::u32string_view text);

}  // namespace surgery
