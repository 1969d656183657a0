// What a rank's end does to the others: abort_test.py starts this under mpirun and looks at the exit code.
#include <csignal>
#include <string>
#include <thread>

#include "base/errors.h"
#include "parallel/agreed_error.h"
#include "parallel/coordinator.h"
#include "parallel/session.h"
#include "parallel/watchdog.h"

using namespace surgery;

namespace {

/// Waits for a peer that will never come.
void wait_for_the_others(Session& session) {
  session.world().barrier();
}

void run(Session& session, const std::string& how) {
  const bool last = session.rank() == session.size() - 1;
  if (how == "throw") {
    if (last) fail_data("block 7 is damaged");
    wait_for_the_others(session);
  } else if (how == "throw-in-unit") {
    run_units(session, {{"block 3", 1}, {"block 4", 1}}, [](size_t unit) {
      if (unit == 1) fail_io("no space left");
    });
  } else if (how == "throw-in-thread") {
    if (last) std::thread([] { throw std::runtime_error("in a thread"); }).join();
    wait_for_the_others(session);
  } else if (how == "throw-nothing-known") {
    if (last) throw 42;
    wait_for_the_others(session);
  } else if (how == "kill") {
    if (last) std::raise(SIGKILL);
    wait_for_the_others(session);
  } else if (how == "leave") {
    if (last) std::exit(0);  // forgets the others
    wait_for_the_others(session);
  } else if (how == "hang") {
    Watchdog watchdog(session, 0.2);
    watchdog.enter("finetune", 0.3);
    watchdog.beat("step 17");
    if (last) std::this_thread::sleep_for(std::chrono::hours(1));
    wait_for_the_others(session);
  } else if (how == "agree") {
    throw AgreedError(ExitCode::usage, "every rank sees this");
  } else if (how == "stop") {
    throw AgreedError(ExitCode::requeue, "stopped with work left");
  } else if (how == "fine") {
    wait_for_the_others(session);
  } else {
    fail_usage("{}: no such way to end", how);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Session session(argc, argv);
  try {
    run(session, argc > 1 ? argv[1] : "");
    session.finish();
    return 0;
  } catch (const std::exception& error) {
    return session.report(error);
  }
}
