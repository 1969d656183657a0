#include "app/command.h"

namespace surgery {

// One function per command, each in its own file src/app/NAME.cpp. A command appears here when it works.
Command forward_command();
Command info_command();

const std::vector<Command>& commands() {
  static const std::vector<Command> table{
      forward_command(),
      info_command(),
  };
  return table;
}

}  // namespace surgery
