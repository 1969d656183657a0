#include "wan/fix_text.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/utf8.h"
#include "wan/character_pattern.h"
#include "wan/html_entities.h"
#include "wan/mojibake.h"
#include "wan/unicode.h"

namespace surgery {
namespace {

constexpr size_t kLongestSegment = 1'000'000;  // code points that are mended at once

constexpr std::array<std::pair<char32_t, const char32_t*>, 22> kLigatures{
    {{U'Ĳ', U"IJ"},           {U'ĳ', U"ij"},      {U'ŉ', U"\u02BCn"},  {U'Ǳ', U"DZ"},
     {U'ǲ', U"Dz"},           {U'ǳ', U"dz"},      {U'Ǆ', U"DŽ"},       {U'ǅ', U"Dž"},
     {U'ǆ', U"dž"},           {U'Ǉ', U"LJ"},      {U'ǈ', U"Lj"},       {U'ǉ', U"lj"},
     {U'Ǌ', U"NJ"},           {U'ǋ', U"Nj"},      {U'ǌ', U"nj"},       {U'\uFB00', U"ff"},
     {U'\uFB01', U"fi"},      {U'\uFB02', U"fl"}, {U'\uFB03', U"ffi"}, {U'\uFB04', U"ffl"},
     {U'\uFB05', U"\u017Ft"}, {U'\uFB06', U"st"}}};

bool is_removed_control(char32_t code) {
  return code <= 0x8 || code == 0xB || (code >= 0xE && code <= 0x1F) || code == 0x7F ||
         (code >= 0x206A && code <= 0x206F) || code == 0xFEFF || (code >= 0xFFF9 && code <= 0xFFFC);
}

/// Ligatures, widths and quotes, a character at a time.
void append_plain(std::u32string& out, char32_t code) {
  const auto ligature = std::ranges::find(kLigatures, code, &std::pair<char32_t, const char32_t*>::first);
  if (ligature != kLigatures.end()) {
    for (const char32_t part : std::u32string_view(ligature->second)) append_plain(out, part);
  } else if (code == 0x3000) {
    out += U' ';
  } else if (code >= 0xFF01 && code <= 0xFFEF) {
    out += to_nfkc(code);
  } else if (code == 0x2BC || (code >= 0x2018 && code <= 0x201B)) {
    out += U'\'';
  } else if (code >= 0x201C && code <= 0x201F) {
    out += U'"';
  } else {
    out += code;
  }
}

std::u32string fix_line_breaks(std::u32string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool pair = text[i] == U'\r' && i + 1 < text.size() && text[i + 1] == U'\n';
    const bool lone = text[i] == U'\r' || text[i] == 0x2028 || text[i] == 0x2029 || text[i] == 0x85;
    if (!pair) out += lone ? U'\n' : text[i];
  }
  return out;
}

/// Escape, '[', numbers between semicolons, a letter: colours and moves of a terminal.
std::u32string remove_terminal_escapes(std::u32string_view text) {
  static const CharacterSet letter = U"A-Za-z";
  std::u32string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i).starts_with(U"\x1B[")) {
      size_t end = i + 2;
      while (end < text.size() && (is_digit(text[end]) || text[end] == U';')) ++end;
      if (end < text.size() && letter.contains(text[end])) {
        i = end;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

std::u32string fix_once(const std::u32string& text, bool unescape) {
  std::u32string fixed = text;
  if (unescape && fixed.find(U'&') != std::u32string::npos)
    fixed = from_utf8(unescape_closed_entities(to_utf8(fixed)));
  fixed = fix_c1_controls(fix_encoding(std::move(fixed)));
  std::u32string plain;
  for (const char32_t code : fixed) append_plain(plain, code);
  plain = remove_terminal_escapes(fix_line_breaks(plain));
  std::erase_if(plain, is_removed_control);
  return to_nfc(plain);
}

}  // namespace

std::string fix_text(const std::string& text) {
  const std::u32string whole = from_utf8(text);
  std::string out;
  bool unescape = true;
  for (size_t begin = 0; begin < whole.size();) {
    const size_t line = std::min(whole.find(U'\n', begin), whole.size() - 1) + 1 - begin;
    std::u32string segment = whole.substr(begin, std::min(line, kLongestSegment));
    begin += segment.size();
    unescape = unescape && segment.find(U'<') == std::u32string::npos;
    while (true) {
      std::u32string fixed = fix_once(segment, unescape);
      if (fixed == segment) break;
      segment = std::move(fixed);
    }
    out += to_utf8(segment);
  }
  return out;
}

}  // namespace surgery
