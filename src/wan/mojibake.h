#pragma once
#include <string>
#include <string_view>

namespace surgery {

/// Whether characters stand side by side that hardly ever do unless UTF-8 was read as another encoding
/// (ftfy's is_bad).
bool looks_like_mojibake(std::u32string_view text);

/// Undoes UTF-8 that was read as one of code_pages(), as often as it happened, in the whole text or in parts
/// of it; otherwise takes C1 control characters for Windows-1252. Text that does not look like it stays as it
/// is (ftfy 6.3's fix_encoding with its default settings).
std::u32string fix_encoding(std::u32string text);

/// What browsers do with C1 control characters: they are Windows-1252.
std::u32string fix_c1_controls(std::u32string_view text);

}  // namespace surgery
