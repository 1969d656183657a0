#pragma once
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace surgery {

/// The share of tokens that stays softmax: T_S = {0, R, 2R, ...}. Rate 1 is full softmax; `linear` has an
/// empty T_S.
class Rate {
 public:
  static Rate linear() { return Rate(0); }
  static Rate full() { return Rate(1); }
  static Rate every(int64_t stride);         ///< stride >= 1; Error{usage} otherwise
  static Rate parse(std::string_view text);  ///< "1", "2", ..., "linear"; Error{usage} otherwise

  bool is_linear() const { return stride_ == 0; }
  bool is_full() const { return stride_ == 1; }
  int64_t stride() const;                        ///< not for linear
  int64_t softmax_tokens(int64_t tokens) const;  ///< |T_S| = ceil(N / R), 0 for linear
  int64_t linear_tokens(int64_t tokens) const { return tokens - softmax_tokens(tokens); }
  std::string name() const;  ///< "1", "8", "linear"

  friend bool operator==(Rate, Rate) = default;
  /// Dearest first: 1 < 2 < 8 < linear.
  friend std::strong_ordering operator<=>(Rate a, Rate b);

 private:
  explicit Rate(int64_t stride) : stride_(stride) {}
  int64_t stride_;
};

/// "2,4,8,linear"
std::vector<Rate> parse_rates(std::string_view list);

}  // namespace surgery
