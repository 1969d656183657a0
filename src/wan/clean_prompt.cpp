#include "base/errors.h"
#include "base/utf8.h"
#include "wan/fix_text.h"
#include "wan/html_entities.h"
#include "wan/text_encoder.h"
#include "wan/unicode.h"

namespace surgery {

std::string clean_prompt(const std::string& prompt) {
  const size_t bad = find_utf8_error(prompt);
  VALIDATE(bad == std::string::npos,
           "prompt is not UTF-8 at byte {} (other bytes would become other words): save the prompts as UTF-8",
           bad);
  std::string cleaned;
  bool pending_space = false;
  for (const char32_t code : from_utf8(html_unescape(html_unescape(fix_text(prompt))))) {
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
