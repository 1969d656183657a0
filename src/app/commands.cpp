#include "app/command.h"

namespace surgery {

// One function per command, each in its own file src/app/NAME.cpp. A command appears here when it works.
Command info_command();

const std::vector<Command>& commands() {
  static const std::vector<Command> table{
      info_command(),
  };
  return table;
}

}  // namespace surgery
