#pragma once
#include "parallel/communicator.h"

namespace surgery {

/// What is asked of a run from outside, the weaker first: nothing, its state on disk, its end.
enum class RunWish { none, save, stop };

/// The strongest wish of any rank, known to every rank. Called by all at a step boundary: a rank that stopped
/// alone would leave the others waiting in their next collective.
RunWish agree_on(Communicator& communicator, RunWish mine);
bool agree_on_stop(Communicator& communicator, bool mine);

}  // namespace surgery
