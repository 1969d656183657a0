#pragma once
#include <string>
#include <string_view>

namespace surgery {

/// Appends a code point as UTF-8.
void append_utf8(std::string& text, char32_t code_point);

/// Replaces HTML character references as Python's html.unescape does: numeric ones by HTML 5's rules, the
/// named ones of HTML 4 (and apos), those that HTML 5 takes without ';' also so. Later names of HTML 5 stay
/// as they are.
std::string html_unescape(std::string_view text);

}  // namespace surgery
