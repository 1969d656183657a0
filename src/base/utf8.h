#pragma once
#include <cstddef>
#include <string_view>

namespace surgery {

/// Position of the first byte that is not part of well-formed UTF-8 (overlong forms, surrogates and values
/// above U+10FFFF are not); std::string_view::npos when all of it is.
size_t find_utf8_error(std::string_view text);

}  // namespace surgery
