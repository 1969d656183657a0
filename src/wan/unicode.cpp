#include "wan/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "base/errors.h"
#include "base/utf8.h"

namespace surgery {
namespace {

utf8proc_category_t category(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

std::u32string normalise(std::u32string_view text, unsigned options) {
  const std::string bytes = to_utf8(text);
  utf8proc_uint8_t* out = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()), std::ssize(bytes), &out,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(out, &std::free);
  EXPECT(size >= 0);
  return from_utf8({reinterpret_cast<const char*>(out), static_cast<size_t>(size)});
}

}  // namespace

bool is_space(char32_t code) {
  return (code >= 0x9 && code <= 0xD) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_word(char32_t code) {
  const utf8proc_category_t kind = category(code);
  return code == '_' || (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO) ||
         (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO);
}

bool is_digit(char32_t code) {
  return category(code) == UTF8PROC_CATEGORY_ND;
}

std::u32string to_upper(char32_t code) {
  if (code == 0xDF) return U"SS";
  return {static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code)))};
}

std::u32string to_nfc(std::u32string_view text) {
  return normalise(text, 0);
}

std::u32string to_nfkc(char32_t code) {
  return normalise({&code, 1}, UTF8PROC_COMPAT);
}

}  // namespace surgery
