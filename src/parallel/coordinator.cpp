#include "parallel/coordinator.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/errors.h"
#include "base/log.h"
#include "parallel/agreed_error.h"
#include "parallel/backoff.h"
#include "parallel/dispatcher.h"
#include "parallel/failure.h"
#include "parallel/quiet_thread.h"

namespace surgery {
namespace {

using Json = nlohmann::json;
using Answer = Dispatcher::Answer;

/// How a rank's last unit ended.
struct Outcome {
  enum class Kind { none, made, failed, given_up } kind = Kind::none;
  size_t unit = 0;
  ExitCode code = ExitCode::done;
  std::string what;
};

std::string to_text(const Json& json) {  // a library's message need not be UTF-8
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Outcome attempt(size_t unit, const std::function<void(size_t)>& make) {
  const auto failure = [&](ExitCode code, const std::string& what) {
    // As it will look after the journey, so that all ranks throw the same text.
    const auto text = Json::parse(to_text(what)).get<std::string>();
    return Outcome{code == ExitCode::requeue ? Outcome::Kind::given_up : Outcome::Kind::failed, unit, code,
                   text};
  };
  try {
    make(unit);
    return {Outcome::Kind::made, unit, ExitCode::done, ""};
  } catch (const std::exception& error) {
    const Failure known = failure_of(error);
    return failure(known.code, known.words);
  } catch (...) {
    return failure(ExitCode::internal, "an exception of unknown type");
  }
}

/// The same number on every rank that was given the same units.
uint64_t fingerprint(const std::vector<WorkUnit>& units) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const WorkUnit& unit : units)
    for (const char c : fmt::format("{}\n{}\n", unit.name, unit.weight))
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// The dispatcher, shared by rank 0's own work and the thread that answers the others.
class Desk {
 public:
  Desk(const std::vector<WorkUnit>& units, int ranks, int attempts)
      : units_(units), ranks_(ranks), attempts_(attempts), dispatcher_(units, ranks, attempts) {}

  void report(int rank, const std::string& host, const Outcome& outcome) {
    {
      const std::scoped_lock lock(mutex_);
      switch (outcome.kind) {
        case Outcome::Kind::none:
          return;
        case Outcome::Kind::made:
          dispatcher_.made(outcome.unit);
          break;
        case Outcome::Kind::given_up:
          dispatcher_.given_up(outcome.unit);
          dispatcher_.stop();
          break;
        case Outcome::Kind::failed:
          report_failure(rank, host, outcome);
          break;
      }
    }
    changed_.notify_all();
  }
  void stop() {
    {
      const std::scoped_lock lock(mutex_);
      dispatcher_.stop();
    }
    changed_.notify_all();
  }
  void fail(ExitCode code, const std::string& message) {
    {
      const std::scoped_lock lock(mutex_);
      dispatcher_.fail(code, message);
    }
    changed_.notify_all();
  }
  std::optional<Answer> next(int rank) {
    const std::scoped_lock lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    const auto answer = dispatcher_.next(rank);
    if (answer && answer->kind != Answer::Kind::make) changed_.notify_all();  // a verdict concerns rank 0 too
    return answer;
  }
  /// Rank 0's own question: waits for an answer.
  Answer wait_for_next(const std::function<bool()>& stop) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (broken_) std::rethrow_exception(broken_);
      if (const auto answer = dispatcher_.next(0)) return *answer;
      changed_.wait_for(lock, std::chrono::milliseconds(50));
      if (stop && stop()) dispatcher_.stop();
    }
  }
  void break_down(std::exception_ptr error) {
    {
      const std::scoped_lock lock(mutex_);
      broken_ = error;
    }
    changed_.notify_all();
  }

 private:
  void report_failure(int rank, const std::string& host, const Outcome& outcome) {
    const std::string where = ranks_ == 1 ? host : fmt::format("rank {} ({})", rank, host);
    if (dispatcher_.failed(rank, where, outcome.unit, outcome.code, outcome.what))
      log_warning("{} failed on {}: {}: trying again (attempt {} of {})", units_[outcome.unit].name, where,
                  outcome.what, dispatcher_.tries(outcome.unit) + 1, attempts_);
  }

  const std::vector<WorkUnit>& units_;
  int ranks_, attempts_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Dispatcher dispatcher_;
  std::exception_ptr broken_;
};

/// Progress is passed on at most this often.
constexpr auto kPulse = std::chrono::milliseconds(500);

/// Lets a watchdog's listener go with the phase that it served.
class Listening {
 public:
  Listening(Watchdog* watchdog, std::function<void()> listener) : watchdog_(watchdog) {
    if (watchdog_) watchdog_->listen(std::move(listener));
  }
  ~Listening() {
    if (watchdog_) watchdog_->listen({});
  }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

 private:
  Watchdog* watchdog_;
};

/// Rank 0's thread: answers the other ranks until each has its verdict.
class Counter {
 public:
  Counter(Session& session, Desk& desk, uint64_t units, int tag, Watchdog* watchdog)
      : session_(session),
        desk_(desk),
        units_(units),
        tag_(tag),
        watchdog_(watchdog),
        asking_(static_cast<size_t>(session.size()), false) {}

  void serve() {
    Backoff backoff = Backoff::for_work();
    for (int left = session_.size() - 1; left > 0;) {
      bool busy = false;
      while (const auto message = session_.channel().poll(tag_)) {
        take(*message);
        busy = true;
      }
      for (int rank = 1; rank < session_.size(); ++rank) {
        if (!asking_[static_cast<size_t>(rank)]) continue;
        const auto answer = desk_.next(rank);
        if (!answer) continue;
        asking_[static_cast<size_t>(rank)] = false;
        if (answer->kind != Answer::Kind::make) --left;
        session_.channel().send(rank, tag_,
                                to_text({{"kind", static_cast<int>(answer->kind)},
                                         {"unit", answer->unit},
                                         {"code", static_cast<int>(answer->code)},
                                         {"message", answer->message},
                                         {"left", answer->left}}));
        busy = true;
      }
      if (alive_ && Clock::now() - told_ >= kPulse) tell_those_that_wait();
      if (busy)
        backoff.reset();
      else
        backoff.pause();
    }
  }

  /// Somebody made progress.
  void alive() { alive_ = true; }

 private:
  using Clock = std::chrono::steady_clock;

  void tell_those_that_wait() {
    alive_ = false;
    told_ = Clock::now();
    for (int rank = 1; rank < session_.size(); ++rank)
      if (asking_[static_cast<size_t>(rank)]) session_.channel().send(rank, tag_, to_text({{"wait", true}}));
  }

  void take(const Channel::Message& message) {
    const Json json = Json::parse(message.text);
    if (watchdog_) {
      watchdog_->hear();
      alive();
    }
    if (json.contains("alive")) return;
    if (json.at("units").get<uint64_t>() != units_)
      desk_.fail(ExitCode::io,
                 fmt::format("rank {} ({}) sees other work to do than rank 0 (the ranks do not see the same "
                             "files): put the run directory on a file system that all hosts share",
                             message.from, json.at("host").get<std::string>()));
    if (json.at("stop").get<bool>()) desk_.stop();
    if (json.at("asks").get<bool>()) {
      Outcome outcome;
      outcome.kind = static_cast<Outcome::Kind>(json.at("kind").get<int>());
      outcome.unit = json.at("unit").get<size_t>();
      outcome.code = static_cast<ExitCode>(json.at("code").get<int>());
      outcome.what = json.at("what").get<std::string>();
      desk_.report(message.from, json.at("host").get<std::string>(), outcome);
      asking_[static_cast<size_t>(message.from)] = true;
    }
  }

  Session& session_;
  Desk& desk_;
  uint64_t units_;
  int tag_;
  Watchdog* watchdog_;
  std::vector<bool> asking_;  // ranks that wait for an answer
  std::atomic<bool> alive_ = false;
  Clock::time_point told_;
};

/// The other ranks' side of the counter.
class Customer {
 public:
  Customer(Session& session, uint64_t units, int tag, const std::function<bool()>& stop, Watchdog* watchdog)
      : session_(session), units_(units), tag_(tag), stop_(stop), watchdog_(watchdog) {}

  /// This rank made progress in its unit.
  void alive() {
    if (std::chrono::steady_clock::now() - told_alive_ < kPulse) return;
    told_alive_ = std::chrono::steady_clock::now();
    session_.channel().send(0, tag_, to_text({{"alive", true}}));
  }

  Answer ask(const Outcome& last) {
    tell(true, last);
    Backoff backoff = Backoff::for_work();
    for (;;) {
      if (const auto message = session_.channel().poll(tag_)) {
        const Json json = Json::parse(message->text);
        if (watchdog_) watchdog_->hear();
        if (json.contains("wait")) continue;
        return {static_cast<Answer::Kind>(json.at("kind").get<int>()), json.at("unit").get<size_t>(),
                static_cast<ExitCode>(json.at("code").get<int>()), json.at("message").get<std::string>(),
                json.at("left").get<std::vector<size_t>>()};
      }
      if (!told_to_stop_ && stop_ && stop_()) tell(false, {});  // a signal reaches a rank that waits, too
      backoff.pause();
    }
  }

 private:
  void tell(bool asks, const Outcome& last) {
    told_to_stop_ = told_to_stop_ || (stop_ && stop_());
    session_.channel().send(0, tag_,
                            to_text({{"asks", asks},
                                     {"kind", static_cast<int>(last.kind)},
                                     {"unit", last.unit},
                                     {"code", static_cast<int>(last.code)},
                                     {"what", last.what},
                                     {"stop", told_to_stop_},
                                     {"units", units_},
                                     {"host", session_.host()}}));
  }

  Session& session_;
  uint64_t units_;
  int tag_;
  const std::function<bool()>& stop_;
  Watchdog* watchdog_;
  bool told_to_stop_ = false;
  std::chrono::steady_clock::time_point told_alive_;
};

Answer work(const std::function<Answer(const Outcome&)>& ask, const std::function<void(size_t)>& make) {
  Outcome last;
  for (;;) {
    const Answer answer = ask(last);
    if (answer.kind != Answer::Kind::make) return answer;
    last = attempt(answer.unit, make);
  }
}

Answer coordinate(Session& session, const std::vector<WorkUnit>& units,
                  const std::function<void(size_t)>& make, const std::function<bool()>& stop,
                  const CoordinatorOptions& options, int tag) {
  Desk desk(units, session.size(), options.attempts);
  Counter counter(session, desk, fingerprint(units), tag, options.watchdog);
  const Listening listening(options.watchdog, [&] { counter.alive(); });
  std::thread thread;
  if (session.size() > 1)
    thread = start_quiet_thread([&] {
      try {
        counter.serve();
      } catch (...) {
        desk.break_down(std::current_exception());
      }
    });
  std::exception_ptr broken;
  Answer verdict;
  try {
    verdict = work(
        [&](const Outcome& last) {
          desk.report(0, session.host(), last);
          if (stop && stop()) desk.stop();
          return desk.wait_for_next(stop);
        },
        make);
  } catch (...) {
    broken = std::current_exception();
    desk.break_down(broken);
  }
  if (thread.joinable()) thread.join();
  if (broken) std::rethrow_exception(broken);
  return verdict;
}

}  // namespace

std::vector<size_t> run_units(Session& session, const std::vector<WorkUnit>& units,
                              const std::function<void(size_t)>& make, const std::function<bool()>& stop,
                              const CoordinatorOptions& options) {
  const int tag =
      session.next_channel_tag();  // a fast rank may ask for the next phase before this one has ended
  Answer verdict;
  if (session.rank() == 0) {
    verdict = coordinate(session, units, make, stop, options, tag);
  } else {
    Customer customer(session, fingerprint(units), tag, stop, options.watchdog);
    const Listening listening(options.watchdog, [&] { customer.alive(); });
    verdict = work([&](const Outcome& last) { return customer.ask(last); }, make);
  }
  if (verdict.kind == Answer::Kind::failed) throw AgreedError(verdict.code, verdict.message);
  return verdict.left;
}

}  // namespace surgery
