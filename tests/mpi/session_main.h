#pragma once
#include "parallel/session.h"

namespace surgery::testing {

/// The session of this test program, made in main.
Session& session();

}  // namespace surgery::testing
