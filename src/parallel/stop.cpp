#include "parallel/stop.h"

namespace surgery {

RunWish agree_on(Communicator& communicator, RunWish mine) {
  return static_cast<RunWish>(
      static_cast<int>(communicator.all_reduce_value(static_cast<int>(mine), Reduction::max)));
}

bool agree_on_stop(Communicator& communicator, bool mine) {
  return agree_on(communicator, mine ? RunWish::stop : RunWish::none) == RunWish::stop;
}

}  // namespace surgery
