#include "app/command.h"

namespace surgery {

// One function per command, each in its own file src/app/NAME.cpp. A command appears here when it works.
Command bench_command();
Command cache_command();
Command distill_command();
Command encode_command();
Command evaluate_command();
Command export_command();
Command finetune_command();
Command forward_command();
Command generate_command();
Command info_command();
Command init_command();
Command inspect_command();
Command plan_command();
Command pretrain_command();
Command reconstruct_command();
Command report_command();
Command run_command();
Command select_command();
Command tables_command();

const std::vector<Command>& commands() {
  static const std::vector<Command> table{
      plan_command(),   run_command(),         cache_command(),    distill_command(),  tables_command(),
      select_command(), encode_command(),      finetune_command(), generate_command(), evaluate_command(),
      report_command(), reconstruct_command(), forward_command(),  bench_command(),    export_command(),
      init_command(),   inspect_command(),     pretrain_command(), info_command(),
  };
  return table;
}

}  // namespace surgery
