#pragma once
#include <string>
#include <string_view>

namespace surgery {

/// Text for HTML content and quoted attributes: & < > " ' become entities, control characters and bytes that
/// are not UTF-8 become U+FFFD.
std::string escape_html(std::string_view text);

/// RFC 4648, with padding, on one line.
std::string base64(std::string_view bytes);

/// A number for people: `digits` significant digits, no trailing zeros, k M G T P from 10,000 on, powers of
/// ten below 0.001, a dash for what is not finite.
std::string format_number(double value, int digits = 4);

}  // namespace surgery
