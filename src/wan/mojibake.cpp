#include "wan/mojibake.h"

#include <algorithm>
#include <optional>

#include "base/utf8.h"
#include "wan/character_pattern.h"
#include "wan/code_pages.h"

namespace surgery {
namespace {

// Bytes are characters below 256 in this file, so that one kind of pattern serves for both.
constexpr std::u32string_view kNoBreakByte = U"\xA0", kReplacementBytes = U"\xEF\xBF\xBD";

/// Sequences that were UTF-8 before a space took the place of byte A0; only those that give likely
/// characters.
const std::vector<CharacterPattern>& altered_patterns() {
  static const CharacterSet rest = U"\x80-\x84\x86-\x9F\xA1-\xBF", any = U"\x80-\xBF", space = U" ";
  static const std::vector<CharacterPattern> patterns{
      {U"\xC2\xC3\xC5\xCE\xD0\xD9", space}, {U"\xE2\xE3", space, rest}, {U"\xE0-\xE3", rest, space},
      {U"\xF0", space, any, any},           {U"\xF0", any, space, any}, {U"\xF0", any, any, space}};
  return patterns;
}

/// UTF-8 of which a byte was lost: 1A stands for U+FFFD, and once a sequence a question mark does.
const std::vector<CharacterPattern>& lossy_patterns() {
  static const CharacterSet lost = U"\x1A?", some = U"\x1A\x80-\xBF", either = U"\x1A?\x80-\xBF";
  static const CharacterSet two = U"\xE0-\xEF", three = U"\xF0-\xF4", high = U"\xA0-\xAF", low = U"\xB0-\xBF";
  static const std::vector<CharacterPattern> patterns{{U"\xC2-\xDF", U"\x1A"},
                                                      {U"\xC2-\xC3", U"?"},
                                                      {U"\xED", high, lost, U"\xED", low, either},
                                                      {U"\xED", high, either, U"\xED", low, lost},
                                                      {two, lost, some},
                                                      {two, some, lost},
                                                      {three, lost, some, some},
                                                      {three, some, lost, some},
                                                      {three, some, some, lost},
                                                      {U"\x1A"}};
  return patterns;
}

/// "\xC3 " is a-grave, mostly a word of its own whose two spaces became one; not in Portuguese "as",
/// "aquele".
std::u32string restore_a_grave(std::u32string_view bytes) {
  std::u32string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    out += bytes[i];
    if (bytes[i] != 0xC3 || i + 1 == bytes.size() || bytes[i + 1] != U' ') continue;
    const std::u32string_view after = bytes.substr(i + 2);
    const auto starts = [&](const char32_t* word) { return after.starts_with(word); };
    if (!starts(U" ") && !starts(U"quele") && !starts(U"quela") && !starts(U"quilo") && !starts(U"s "))
      out += kNoBreakByte;
  }
  return out;
}

std::u32string restore_byte_a0(std::u32string bytes) {
  if (!matches_anywhere(altered_patterns(), bytes)) return bytes;
  return replace_matches(altered_patterns(), restore_a_grave(bytes), [](std::u32string_view match) {
    std::u32string restored(match);
    std::ranges::replace(restored, U' ', kNoBreakByte[0]);
    return restored;
  });
}

/// A character above U+FFFF as two surrogates of three bytes each (CESU-8); 0 if there is none.
char32_t surrogate_pair(std::u32string_view bytes) {
  static const std::vector<CharacterPattern> pair{
      {U"\xED", U"\xA0-\xAF", U"\x80-\xBF", U"\xED", U"\xB0-\xBF", U"\x80-\xBF"}};
  if (match_at(pair, bytes, 0) == 0) return 0;
  return 0x10000 +
         ((bytes[1] & 0xF) << 16 | (bytes[2] & 0x3F) << 10 | (bytes[4] & 0xF) << 6 | (bytes[5] & 0x3F));
}

/// UTF-8, with surrogate pairs and Java's two-byte zero as programs write them by mistake.
std::optional<std::u32string> decode(std::u32string_view bytes) {
  std::string plain;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (const char32_t code = surrogate_pair(bytes.substr(i)); code != 0) {
      append_utf8(plain, code);
      i += 5;
    } else if (bytes.substr(i).starts_with(U"\xC0\x80")) {
      plain += '\0';
      i += 1;
    } else {
      plain += static_cast<char>(bytes[i]);
    }
  }
  if (find_utf8_error(plain) != std::string::npos) return std::nullopt;
  return from_utf8(plain);
}

/// Length of what looks like a run of misread characters at `position`; 0 if nothing does.
size_t misread_run(std::u32string_view text, size_t position) {
  static const CharacterSet rest = std::u32string_view(windows_characters(0x80, 0xBF));
  // A space may have been a no-break space; these stand for themselves beside misread text, too.
  static const CharacterSet strict = [] {
    std::u32string characters = windows_characters(0x80, 0xBF);
    std::erase_if(characters, [](char32_t c) {
      return std::u32string_view(U"–—―‘’‚“”„•…").find(c) != std::u32string::npos;
    });
    return CharacterSet(std::u32string_view(characters));
  }();
  static const CharacterSet next = rest | U" ";
  static const CharacterSet four =
      std::u32string_view(windows_characters(0xF0, 0xF0) + windows_characters(0xF3, 0xF3));
  static const std::vector<CharacterPattern> patterns{
      {std::u32string_view(windows_characters(0xC2, 0xDF)), next},
      {std::u32string_view(windows_characters(0xE0, 0xEF)), next, next},
      {four, next, next, next}};
  if (position > 0 && strict.contains(text[position - 1])) return 0;
  size_t end = position;
  while (const size_t length = end < text.size() ? match_at(patterns, text, end) : 0) end += length;
  return end - position;
}

/// Mends parts that look misread each on its own, where no page holds the whole text.
std::u32string fix_parts(std::u32string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = misread_run(text, i);
    const std::u32string part(text.substr(i, std::max<size_t>(1, length)));
    // Shorter than the text, or this would have no end.
    out += length > 0 && length < text.size() && looks_like_mojibake(part) ? fix_encoding(part) : part;
    i += part.size();
  }
  return out;
}

std::u32string fix_once(const std::u32string& text) {
  const bool ascii = std::ranges::all_of(text, [](char32_t code) { return code < 0x80; });
  if (ascii || !looks_like_mojibake(text)) return text;
  for (const CodePage& page : code_pages()) {
    auto bytes = page.encode(text);
    if (!bytes) continue;
    if (page.spaces_restored) bytes = restore_byte_a0(std::move(*bytes));
    if (page.open_bytes)
      bytes = replace_matches(lossy_patterns(), *bytes,
                              [](std::u32string_view) { return std::u32string(kReplacementBytes); });
    if (auto decoded = decode(*bytes)) return *decoded;
  }
  const std::u32string mended = fix_parts(text);
  return mended != text ? mended : fix_c1_controls(text);
}

}  // namespace

std::u32string fix_c1_controls(std::u32string_view text) {
  const CodePage& windows1252 = code_pages()[1];
  std::u32string out;
  for (const char32_t code : text) out += code >= 0x80 && code <= 0x9F ? windows1252.character(code) : code;
  return out;
}

std::u32string fix_encoding(std::u32string text) {
  while (true) {
    std::u32string fixed = fix_once(text);
    if (fixed == text) return text;
    text = std::move(fixed);
  }
}

}  // namespace surgery
