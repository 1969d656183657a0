#pragma once

namespace surgery {

/// From here on SIGTERM and SIGUSR2 raise a flag instead of ending the process; the work looks at it where it
/// can stop cleanly. Not SIGUSR1, whose use collides with NCCL's. Call once, in main, before threads are
/// started.
void install_stop_signals();

/// Undoes that, for work that has nothing to commit before it is whole: a stop signal ends the process again,
/// and one that has come already does so now.
void release_stop_signals();

/// Whether a stop was asked for, by signal or by `request_stop`. One process's view: ranks agree at a step
/// boundary.
bool stop_requested();

/// The signal that asked, 0 if none did.
int stop_signal();

/// Asks for a stop from within (wall time nearly over, a STOP file).
void request_stop();

/// Forgets the request (tests).
void clear_stop_request();

/// Keeps the stop signals away from the calling thread and the threads it starts: helper threads of libraries
/// must not have their system calls interrupted.
void block_stop_signals();

}  // namespace surgery
