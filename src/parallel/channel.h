#pragma once
#include <memory>
#include <optional>
#include <string>

namespace surgery {

/// Short texts between two ranks, with a message space of its own. Any thread may use it.
class Channel {
 public:
  struct Message {
    int from = 0;
    std::string text;
  };
  virtual ~Channel() = default;
  virtual void send(int to, int tag, const std::string& text) = 0;
  /// The next message with this tag, from anyone, if one has arrived.
  virtual std::optional<Message> poll(int tag) = 0;
};

/// Collective; MPI must be initialised.
std::unique_ptr<Channel> make_mpi_channel();

}  // namespace surgery
