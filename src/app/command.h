#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "parallel/session.h"
#include "recipe/config.h"

namespace surgery {

/// One option without a dot in its name: it belongs to the command, not to the configuration.
struct CommandOption {
  std::string name;         ///< "model" for --model
  std::string placeholder;  ///< "DIR", "FILE", "N"; empty = a flag without a value
  std::string help;
  bool required = false;
};

/// What the command line gave for the command's own options.
class CommandLine {
 public:
  bool has(const std::string& name) const { return values_.contains(name); }
  /// The value; Error{usage} when it was not given.
  const std::string& text(const std::string& name) const;
  std::string text(const std::string& name, const std::string& otherwise) const;
  int64_t integer(const std::string& name, int64_t otherwise) const;  ///< Error{usage} when not an integer
  double number(const std::string& name, double otherwise) const;     ///< Error{usage} when not a number
  const std::vector<std::string>& positional() const { return positional_; }

  std::string to_text() const;  ///< " --name=value ... positional ..."

  void set(const std::string& name, const std::string& value) { values_[name] = value; }
  void add_positional(const std::string& value) { positional_.push_back(value); }

 private:
  std::map<std::string, std::string> values_;
  std::vector<std::string> positional_;
};

/// What a command is given. The configuration is resolved and valid.
struct Context {
  Session& session;
  Config config;
  CommandLine options;
  std::string config_text;  ///< the resolved configuration as INI, parsable again
  std::string config_hash;  ///< of config_text, 32 hex digits
};

/// Whether a command is a stage of a recipe: then start-up prints build, ranks and the resolved
/// configuration.
enum class CommandKind { recipe, tool };

/// What SIGTERM and SIGUSR2 do to a command: the work is asked to commit what it has and to end with
/// ExitCode::requeue, or, where half of the work is worth nothing, the process ends as any other would.
enum class StopSignals { commit, end };

struct Command {
  std::string name;
  std::string summary;
  std::function<ExitCode(Context&)> run;
  CommandKind kind = CommandKind::tool;
  std::vector<CommandOption> options;
  std::string positional;  ///< placeholder of positional arguments ("FILE..."), empty = none are taken
  StopSignals stop_signals = StopSignals::end;
  /// Without --config, the configuration is that of the run in run.directory, where there is one.
  bool configured_by_run = false;
};

/// Every command, in the order of the help text. One file per command defines NAME_command(); commands.cpp
/// lists them.
const std::vector<Command>& commands();
/// Error{usage} naming the nearest command.
const Command& find_command(std::string_view name);

}  // namespace surgery
