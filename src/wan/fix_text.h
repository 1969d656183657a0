#pragma once
#include <string>

namespace surgery {

/// ftfy 6.3's fix_text with its default settings, line by line until nothing changes: character references
/// ("auto": none from the first line with a '<' on), misread encodings (wan/mojibake.h), C1 controls, Latin
/// ligatures, full-width ASCII and half-width kana, curly quotes, line breaks, terminal escapes, control
/// characters, normal form C. All of ftfy's repairs but: named references that came after HTML 4, and
/// surrogates, which UTF-8 cannot hold. `text` must be well-formed UTF-8.
std::string fix_text(const std::string& text);

}  // namespace surgery
