#include "recipe/budget.h"

#include <cmath>
#include <map>

#include "base/errors.h"
#include "base/text.h"

namespace surgery {
namespace {

[[noreturn]] void bad_budget(const std::string& text) {
  fail_usage(
      "'{}' is no budget: give a share of the all-softmax cost (0.7 or 70%), a cost (1.2e12, 850G), or "
      "blocks by rate (15xR4, 15xlinear)",
      text);
}

double positive(std::string_view number, const std::string& text) {
  const auto value = parse_number<double>(number);
  if (!value || !std::isfinite(*value) || *value <= 0) bad_budget(text);
  return *value;
}

}  // namespace

Budget parse_budget(const std::string& typed) {
  const std::string text = without_spaces(typed);
  const std::string_view all = text;
  Budget budget;
  if (const size_t x = all.find('x'); x != std::string_view::npos) {
    budget.kind = Budget::Kind::blocks;
    budget.blocks = parse_number<int64_t>(all.substr(0, x)).value_or(-1);
    if (budget.blocks < 0) bad_budget(typed);
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
