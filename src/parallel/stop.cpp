#include "parallel/stop.h"

namespace surgery {

bool agree_on_stop(Communicator& communicator, bool mine) {
  return communicator.all_reduce_value(mine ? 1 : 0, Reduction::max) > 0;
}

}  // namespace surgery
