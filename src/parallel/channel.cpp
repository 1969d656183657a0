#include "parallel/channel.h"

#include <mpi.h>

#include "base/errors.h"
#include "parallel/backoff.h"
#include "parallel/mpi_check.h"

namespace surgery {
namespace {

class MpiChannel final : public Channel {
 public:
  MpiChannel() {
    MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm_));
    MPI_CHECK(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  }
  void send(int to, int tag, const std::string& text) override {
    MPI_Request request;
    MPI_CHECK(MPI_Isend(text.data(), narrow<int>(text.size()), MPI_BYTE, to, tag, comm_, &request));
    Backoff backoff = Backoff::for_transfer(static_cast<int64_t>(text.size()));
    for (int done = 0;;) {
      MPI_CHECK(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
      if (done) return;
      backoff.pause();
    }
  }
  std::optional<Message> poll(int tag) override {
    // A matched probe: between seeing a message and receiving it no other thread can take it.
    MPI_Message handle;
    MPI_Status status;
    int there = 0;
    MPI_CHECK(MPI_Improbe(MPI_ANY_SOURCE, tag, comm_, &there, &handle, &status));
    if (!there) return std::nullopt;
    int bytes = 0;
    MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &bytes));
    Message message{status.MPI_SOURCE, std::string(static_cast<size_t>(bytes), '\0')};
    MPI_CHECK(MPI_Mrecv(message.text.data(), bytes, MPI_BYTE, &handle, &status));
    return message;
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

}  // namespace

std::unique_ptr<Channel> make_mpi_channel() {
  return std::make_unique<MpiChannel>();
}

}  // namespace surgery
