#include "attention/rate.h"

#include "base/errors.h"
#include "base/text.h"

namespace surgery {

Rate Rate::every(int64_t stride) {
  if (stride < 1)
    fail_usage("rate {} is not a stride (T_S keeps every R-th token): give 1, 2, 3, ... or linear", stride);
  return Rate(stride);
}

Rate Rate::parse(std::string_view text) {
  if (text == "linear") return linear();
  const int64_t stride = parse_number<int64_t>(text).value_or(0);
  if (stride < 1)
    fail_usage("rate '{}' is not one (T_S keeps every R-th token): give 1, 2, 3, ... or linear", text);
  return Rate(stride);
}

int64_t Rate::stride() const {
  EXPECT(!is_linear());
  return stride_;
}

int64_t Rate::softmax_tokens(int64_t tokens) const {
  EXPECT(tokens >= 0);
  return is_linear() ? 0 : tokens / stride_ + (tokens % stride_ != 0);
}

std::string Rate::name() const {
  return is_linear() ? "linear" : std::to_string(stride_);
}

std::strong_ordering operator<=>(Rate a, Rate b) {
  if (a.is_linear() || b.is_linear()) return a.is_linear() <=> b.is_linear();
  return a.stride_ <=> b.stride_;
}

std::vector<Rate> parse_rates(std::string_view list) {
  std::vector<Rate> rates;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t comma = std::min(list.find(',', begin), list.size());
    std::string_view word = list.substr(begin, comma - begin);
    while (!word.empty() && word.front() == ' ') word.remove_prefix(1);
    while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
    rates.push_back(Rate::parse(word));
    begin = comma + 1;
  }
  return rates;
}

}  // namespace surgery
