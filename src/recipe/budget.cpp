#include "recipe/budget.h"

#include <charconv>
#include <cmath>
#include <map>

#include "base/errors.h"

namespace surgery {
namespace {

[[noreturn]] void bad_budget(const std::string& text) {
  fail_usage(
      "'{}' is no budget: give a share of the all-softmax cost (0.7 or 70%), a cost (1.2e12, 850G), or "
      "blocks by rate "
      "(15xR4, 15xlinear)",
      text);
}

template <class Number>
bool parse_whole(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return !text.empty() && error == std::errc{} && end == text.data() + text.size();
}

double positive(std::string_view number, const std::string& text) {
  double value = 0;
  if (!parse_whole(number, value) || !std::isfinite(value) || value <= 0) bad_budget(text);
  return value;
}

}  // namespace

std::string without_spaces(std::string_view text) {
  std::string result;
  for (const char c : text)
    if (c != ' ') result += c;
  return result;
}

Budget parse_budget(const std::string& typed) {
  const std::string text = without_spaces(typed);
  const std::string_view all = text;
  Budget budget;
  if (const size_t x = all.find('x'); x != std::string_view::npos) {
    budget.kind = Budget::Kind::blocks;
    if (!parse_whole(all.substr(0, x), budget.blocks) || budget.blocks < 0) bad_budget(typed);
    std::string_view rate = all.substr(x + 1);
    if (rate.starts_with('R')) rate.remove_prefix(1);
    try {
      budget.rate = Rate::parse(rate);
    } catch (const Error&) {
      bad_budget(typed);
    }
    return budget;
  }
  static const std::map<char, double> kSuffix{{'K', 1e3}, {'M', 1e6}, {'G', 1e9}, {'T', 1e12}, {'P', 1e15}};
  if (text.empty()) bad_budget(typed);
  if (text.back() == '%') {
    budget.value = positive(all.substr(0, all.size() - 1), typed) / 100;
  } else if (const auto suffix = kSuffix.find(text.back()); suffix != kSuffix.end()) {
    budget.kind = Budget::Kind::cost;
    budget.value = positive(all.substr(0, all.size() - 1), typed) * suffix->second;
  } else {
    budget.value = positive(all, typed);
    if (budget.value > 1) budget.kind = Budget::Kind::cost;
  }
  return budget;
}

}  // namespace surgery
