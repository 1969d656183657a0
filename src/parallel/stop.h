#pragma once
#include "parallel/communicator.h"

namespace surgery {

/// Whether any rank wants to stop, known to every rank. Called by all at a step boundary: a rank that stopped
/// alone would leave the others waiting in their next collective.
bool agree_on_stop(Communicator& communicator, bool mine);

}  // namespace surgery
