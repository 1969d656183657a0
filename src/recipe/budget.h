#pragma once
#include <cstdint>
#include <string>

#include "attention/rate.h"

namespace surgery {

/// What select.budget says: a share of the all-softmax cost ("0.7", "70%"), a cost ("1.2e12", "850G"), or
/// blocks by rate ("15xR4", "15xlinear", "15x4"). Spaces do not count.
struct Budget {
  enum class Kind { share, cost, blocks };
  Kind kind = Kind::share;
  double value = 0;    ///< of share and cost
  int64_t blocks = 0;  ///< of blocks
  Rate rate = Rate::full();
};
/// Error{usage} naming the forms.
Budget parse_budget(const std::string& text);

}  // namespace surgery
