#include "parallel/session.h"

#include <mpi.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "base/errors.h"
#include "base/log.h"
#include "parallel/agreed_error.h"
#include "parallel/failure.h"
#include "parallel/launch_environment.h"
#include "parallel/local_communicator.h"
#include "parallel/mpi_check.h"
#include "parallel/mpi_communicator.h"

namespace surgery {
namespace {

// What a handler of std::terminate needs; it can be given nothing.
struct Place {
  std::atomic<bool> mpi{false};
  int rank = 0;
  std::array<char, 256> host{};
};
Place& place() {
  static Place instance;
  return instance;
}

void print_failure(const std::string& what) {
  fmt::print(stderr, "rank {}, {}: {}\n", place().rank, place().host.data(), what);
  std::fflush(stderr);
}

[[noreturn]] void abort_all(int exit_code) {
  std::fflush(stdout);
  std::fflush(stderr);
  if (place().mpi) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);  // no destructors, no atexit: other threads may be anywhere
}

[[noreturn]] void on_terminate() {
  int code = static_cast<int>(ExitCode::internal);
  try {
    if (const auto current = std::current_exception()) std::rethrow_exception(current);
    print_failure("terminated without an exception (a defect of this program): please report it");
  } catch (const std::exception& error) {
    const Failure failure = failure_of(error);
    code = static_cast<int>(failure.code);
    print_failure(failure.words);
  } catch (...) {
    print_failure("an exception of unknown type (a defect of this program): please report it");
  }
  abort_all(code);
}

}  // namespace

struct Session::State {
  int size = 1, local_rank = 0, local_size = 1, channel_tag = 0;
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Channel> channel;

  void start_mpi(int& argc, char**& argv) {
    int provided = MPI_THREAD_SINGLE;
    MPI_CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided));
    MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    place().mpi = true;
    MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &place().rank));
    MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size));
    if (provided < MPI_THREAD_MULTIPLE)
      fail_usage(
          "this MPI gives thread level {} (the coordinator and the gradient buckets communicate from threads "
          "of "
          "their own): use an MPI built with MPI_THREAD_MULTIPLE",
          provided);
    MPI_Comm node = MPI_COMM_NULL;
    MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, place().rank, MPI_INFO_NULL, &node));
    MPI_CHECK(MPI_Comm_rank(node, &local_rank));
    MPI_CHECK(MPI_Comm_size(node, &local_size));
    MPI_CHECK(MPI_Comm_free(&node));
  }
};

Session::Session(int& argc, char**& argv) : state_(std::make_unique<State>()) {
  gethostname(place().host.data(), place().host.size() - 1);
  std::set_terminate(on_terminate);
  const LaunchEnvironment environment = read_launch_environment(std::getenv);
  if (environment.launched) state_->start_mpi(argc, argv);
  validate_world_size(environment, state_->size);
  set_log_rank(rank(), size());
  state_->world = duplicate();
  if (size() > 1) state_->channel = make_mpi_channel();
}

Session::~Session() = default;

int Session::rank() const {
  return place().rank;
}
int Session::size() const {
  return state_->size;
}
int Session::local_rank() const {
  return state_->local_rank;
}
int Session::local_size() const {
  return state_->local_size;
}
std::string Session::host() const {
  return place().host.data();
}

std::string Session::library() const {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_CHECK(MPI_Get_library_version(text.data(), &length));
  std::string version(text.data(), static_cast<size_t>(length));
  while (!version.empty() && (version.back() == '\n' || version.back() == '\0')) version.pop_back();
  return version;
}

Communicator& Session::world() {
  return *state_->world;
}

std::unique_ptr<Communicator> Session::duplicate() {
  return place().mpi ? make_mpi_communicator() : make_local_communicator();
}

Channel& Session::channel() {
  EXPECT(state_->channel);
  return *state_->channel;
}

int Session::next_channel_tag() {
  return state_->channel_tag = (state_->channel_tag + 1) % 32768;
}

void Session::finish() {
  if (!place().mpi) return;
  world().barrier();  // waits without burning a core, which MPI_Finalize does not promise
  place().mpi = false;
  MPI_CHECK(MPI_Finalize());
}

void Session::abort(int exit_code) {
  abort_all(exit_code);
}

int Session::report(const std::exception& error) {
  const Failure failure = failure_of(error);
  const int code = static_cast<int>(failure.code);
  if (dynamic_cast<const AgreedError*>(&error) == nullptr) {
    print_failure(failure.words);
    abort_all(code);
  }
  if (rank() == 0) print_failure(failure.words);
  finish();
  return code;
}

}  // namespace surgery
