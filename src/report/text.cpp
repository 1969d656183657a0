#include "report/text.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/errors.h"
#include "base/utf8.h"

namespace surgery {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD

void append_escaped(std::string& out, char c) {
  switch (c) {
    case '&':
      out += "&amp;";
      return;
    case '<':
      out += "&lt;";
      return;
    case '>':
      out += "&gt;";
      return;
    case '"':
      out += "&quot;";
      return;
    case '\'':
      out += "&#39;";
      return;
    default:
      break;
  }
  const auto byte = static_cast<unsigned char>(c);
  const bool control = (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F;
  if (control) {
    out += kReplacement;
  } else {
    out += c;
  }
}

/// "1.250" -> "1.25", "3.000" -> "3"
std::string without_trailing_zeros(std::string number) {
  if (number.find('.') == std::string::npos) return number;
  number.erase(number.find_last_not_of('0') + 1);
  if (number.ends_with('.')) number.pop_back();
  return number == "-0" ? "0" : number;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const size_t wrong = std::min(find_utf8_error(text), text.size());
    for (const char c : text.substr(0, wrong)) append_escaped(out, c);
    text.remove_prefix(wrong);
    if (text.empty()) break;
    out += kReplacement;
    text.remove_prefix(1);
  }
  return out;
}

std::string base64(std::string_view bytes) {
  static constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](size_t k) -> uint32_t {
      return i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0;
    };
    const uint32_t group = byte(0) << 16 | byte(1) << 8 | byte(2);
    for (size_t k = 0; k < 4; ++k) {
      out += i + k > bytes.size() ? '=' : kAlphabet[group >> (18 - 6 * k) & 63];
    }
  }
  return out;
}

std::string format_number(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size < 1e-3 || size >= 1e18) {
    auto text = fmt::format("{:.{}e}", value, digits - 1);
    const size_t e = text.find('e');
    return without_trailing_zeros(text.substr(0, e)) + "e" + std::to_string(std::stoi(text.substr(e + 1)));
  }
  static constexpr std::array<std::pair<double, const char*>, 5> kSuffixes{
      {{1e15, " P"}, {1e12, " T"}, {1e9, " G"}, {1e6, " M"}, {1e3, " k"}}};
  double scaled = value;
  const char* suffix = "";
  if (size >= 1e4) {
    for (const auto& [unit, name] : kSuffixes) {
      if (size < unit) continue;
      scaled = value / unit;
      suffix = name;
      break;
    }
  }
  const int whole = static_cast<int>(std::floor(std::log10(std::abs(scaled)))) + 1;
  return without_trailing_zeros(fmt::format("{:.{}f}", scaled, std::clamp(digits - whole, 0, 12))) + suffix;
}

}  // namespace surgery
