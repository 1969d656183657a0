#include "wan/tensor_faults.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace surgery {
namespace {

constexpr size_t kLines = 20, kNamesOfLine = 4;

/// A tensor's name cut at its first number: "blocks.7.ffn.0.weight" is tensor "ffn.0.weight" of 7 in
/// "blocks".
struct CutName {
  std::string stack;  ///< empty: the name holds no number
  int64_t number = -1;
  std::string tensor;
};

CutName cut(const std::string& name) {
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    const size_t end = name.find('.', dot + 1);
    if (end == std::string::npos || end == dot + 1 || end - dot > 10) continue;
    const std::string number = name.substr(dot + 1, end - dot - 1);
    if (std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; }))
      return {name.substr(0, dot), std::stoll(number), name.substr(end + 1)};
  }
  return {"", -1, name};
}

/// "0-3, 5, 7-9"
std::string ranges(const std::set<int64_t>& numbers) {
  std::vector<std::string> parts;
  for (auto it = numbers.begin(); it != numbers.end();) {
    const int64_t first = *it;
    int64_t last = first;
    while (++it != numbers.end() && *it == last + 1) last = *it;
    parts.push_back(first == last ? std::to_string(first) : fmt::format("{}-{}", first, last));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string some_of(const std::vector<std::string>& names) {
  if (names.size() <= kNamesOfLine) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + kNamesOfLine, ", "),
                     names.size() - kNamesOfLine);
}

}  // namespace

void TensorFaults::add(const std::string& name, const std::string& what) {
  const CutName parts = cut(name);
  numbers_[{what, parts.stack, parts.tensor}].insert(parts.number);
}

std::string TensorFaults::text() const {
  std::map<Blocks, std::vector<std::string>> tensors;
  for (const auto& [fault, numbers] : numbers_)
    tensors[{fault.what, fault.stack, numbers}].push_back(fault.tensor);
  std::string text;
  size_t lines = 0;
  for (const auto& [blocks, names] : tensors) {
    if (lines++ == kLines) return text + fmt::format("\n  and {} more of the kind", tensors.size() - kLines);
    text += "\n  " + line(blocks, names);
  }
  return text;
}

std::string TensorFaults::line(const Blocks& blocks, const std::vector<std::string>& names) {
  const size_t count = names.size() * blocks.numbers.size();
  const std::string number = count == 1 ? "" : fmt::format(" ({})", count);
  if (blocks.stack.empty()) return some_of(names) + " " + blocks.what + number;
  if (count == 1)
    return fmt::format("{}.{}.{} {}", blocks.stack, *blocks.numbers.begin(), names.front(), blocks.what);
  return fmt::format("{} {}: {} {}{}", blocks.stack, ranges(blocks.numbers), some_of(names), blocks.what,
                     number);
}

}  // namespace surgery
