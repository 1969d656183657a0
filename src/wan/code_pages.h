#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace surgery {

/// An encoding of one byte a character. Bytes that it leaves open stand for the control characters of their
/// number ("sloppy", as browsers and careless programs have it).
struct CodePage {
  std::u32string_view upper;  ///< what bytes 128 and on decode to, '.' for the character of the same number
  bool open_bytes;            ///< leaves some bytes open; U+FFFD was one of them, and is encoded as 0x1A
  bool spaces_restored;       ///< a space may have been a no-break space (wan/mojibake.h)

  char32_t character(char32_t byte) const;
  std::optional<char32_t> byte(char32_t character) const;
  /// Bytes as characters below 256; none where a character is not of this page.
  std::optional<std::u32string> encode(std::u32string_view text) const;
};

/// Those that UTF-8 was commonly mistaken for, in the order in which ftfy tries them: Latin-1 (the first),
/// Windows-1252 (the second), 1251, 1250, 1253, 1254, 1257, ISO 8859-2, Mac Roman, code page 437.
std::span<const CodePage> code_pages();

/// Characters that the bytes first..last decode to in Latin-1 or one of the Windows pages.
std::u32string windows_characters(char32_t first, char32_t last);

}  // namespace surgery
