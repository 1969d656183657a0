#include "parallel/collective_queue.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "parallel/backoff.h"
#include "parallel/quiet_thread.h"

namespace surgery {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct Flight {
  std::unique_ptr<Communicator::Pending> pending;
  std::vector<at::Tensor> tensors;
  std::function<void()> done;
  Clock::time_point begin;
};

}  // namespace

struct CollectiveQueue::State {
  explicit State(Communicator& c) : communicator(c) {}

  Communicator& communicator;
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<Flight> flights;  // the front one is driven
  Ticket started = 0, ended = 0;
  double waited = 0, flown = 0;
  bool quit = false;
  std::exception_ptr broken;
  std::thread driver;

  void drive();
  void end_front();
};

/// The driver's loop: transfers advance only when someone asks about them.
void CollectiveQueue::State::drive() {
  std::unique_lock lock(mutex);
  Backoff backoff = Backoff::beside_computation();
  while (!quit) {
    if (broken || flights.empty()) {
      changed.wait(lock);
      continue;
    }
    Flight& front = flights.front();  // others are only added behind it
    bool done = false;
    lock.unlock();
    try {
      for (int i = 0; i < 8 && !done; ++i) done = front.pending->test();
      if (done && front.done) front.done();
      if (!done) backoff.pause();
    } catch (...) {
      lock.lock();
      broken = std::current_exception();
      changed.notify_all();
      continue;
    }
    lock.lock();
    if (!done) continue;
    backoff.reset();
    end_front();
  }
}

void CollectiveQueue::State::end_front() {
  flown += seconds_since(flights.front().begin);
  flights.pop_front();
  ++ended;
  changed.notify_all();
}

CollectiveQueue::CollectiveQueue(Communicator& communicator) : state_(std::make_unique<State>(communicator)) {
  if (communicator.size() > 1)
    state_->driver = start_quiet_thread([state = state_.get()] { state->drive(); });
}

CollectiveQueue::~CollectiveQueue() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->quit = true;
  }
  state_->changed.notify_all();
  if (state_->driver.joinable()) state_->driver.join();
  if (!state_->flights.empty()) new std::deque<Flight>(std::move(state_->flights));
}

CollectiveQueue::Ticket CollectiveQueue::start(const Start& start, std::vector<at::Tensor> tensors,
                                               std::function<void()> done) {
  State& state = *state_;
  // Under the lock: two threads (autograd's, the caller's) begin one after the other.
  std::unique_lock lock(state.mutex);
  if (state.broken) std::rethrow_exception(state.broken);
  Flight flight{nullptr, std::move(tensors), std::move(done), Clock::now()};
  flight.pending = start(state.communicator);
  const Ticket ticket = ++state.started;
  if (state.driver.joinable()) {
    state.flights.push_back(std::move(flight));
    state.changed.notify_all();
    return ticket;
  }
  ++state.ended;
  lock.unlock();
  flight.pending->wait();
  if (flight.done) flight.done();
  return ticket;
}

void CollectiveQueue::wait(Ticket ticket) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  const Clock::time_point begin = Clock::now();
  state.changed.wait(lock, [&] { return state.broken || state.ended >= ticket; });
  state.waited += seconds_since(begin);
  if (state.broken) std::rethrow_exception(state.broken);
}

void CollectiveQueue::wait_all() {
  Ticket last = 0;
  {
    const std::scoped_lock lock(state_->mutex);
    last = state_->started;
  }
  wait(last);
}

double CollectiveQueue::waited_seconds() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->waited;
}
double CollectiveQueue::flight_seconds() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->flown;
}

}  // namespace surgery
