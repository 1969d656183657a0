#include <exception>

#include "app/options.h"
#include "base/signals.h"
#include "parallel/session.h"

int main(int argc, char** argv) {
  surgery::install_stop_signals();  // before MPI starts its threads
  // Outside the try block, so that the catch still has it. It sets std::terminate's handler as well.
  surgery::Session session(argc, argv);
  try {
    const surgery::ExitCode code = surgery::run_command_line(session, {argv + 1, argv + argc});
    session.finish();
    return static_cast<int>(code);
  } catch (const std::exception& error) {
    // Prints `rank, host: what`. Unwinding into MPI's end would leave the other ranks waiting for ever.
    return session.report(error);
  }
}
