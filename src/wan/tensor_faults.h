#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace surgery {

/// What is wrong with named tensors, gathered: first the blocks that share a fault of the same tensor, then
/// the tensors of the same blocks, so that one mistake is one line: "blocks 0-29: attn1.to_q.weight missing
/// (30)".
class TensorFaults {
 public:
  void add(const std::string& name, const std::string& what);
  bool empty() const { return numbers_.empty(); }
  /// A line each, "\n  " before it; many are cut short.
  std::string text() const;

 private:
  struct Fault {
    std::string what, stack, tensor;
    auto operator<=>(const Fault&) const = default;
  };
  struct Blocks {
    std::string what, stack;
    std::set<int64_t> numbers;
    auto operator<=>(const Blocks&) const = default;
  };
  static std::string line(const Blocks& blocks, const std::vector<std::string>& names);

  std::map<Fault, std::set<int64_t>> numbers_;
};

}  // namespace surgery
