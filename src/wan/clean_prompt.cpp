#include <algorithm>
#include <cstdint>

#include "base/errors.h"
#include "wan/html_entities.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

/// Takes one code point off `text`; 0xFFFFFFFF where it is not UTF-8 (overlong, surrogate, cut short).
char32_t take_code_point(std::string_view& text) {
  constexpr char32_t kInvalid = 0xFFFFFFFF;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
  if (length == 0 || length > text.size()) return kInvalid;
  char32_t code = length == 1 ? lead : lead & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return kInvalid;
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return kInvalid;
  text.remove_prefix(length);
  return code;
}

/// What Python's str.isspace and its regular expressions' \s take as whitespace.
bool is_space(char32_t code) {
  return (code >= 0x9 && code <= 0xD) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

void check_utf8(std::string_view text) {
  for (std::string_view rest = text; !rest.empty();)
    VALIDATE(
        take_code_point(rest) != 0xFFFFFFFF,
        "prompt is not UTF-8 at byte {} (other bytes would become other words): save the prompts as UTF-8",
        text.size() - rest.size());
}

}  // namespace

std::string clean_prompt(const std::string& prompt) {
  check_utf8(prompt);
  const std::string text = html_unescape(html_unescape(prompt));
  std::string cleaned;
  bool pending_space = false;
  for (std::string_view rest = text; !rest.empty();) {
    const char32_t code = take_code_point(rest);
    if (is_space(code)) {
      pending_space = !cleaned.empty();
      continue;
    }
    if (pending_space) cleaned += ' ';
    pending_space = false;
    append_utf8(cleaned, code);
  }
  return cleaned;
}

}  // namespace surgery
