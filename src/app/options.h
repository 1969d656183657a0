#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "app/command.h"
#include "recipe/config_table.h"

namespace surgery {

/// Settings of an INI file, each with its file:line. Faults of syntax are appended to `faults`, one a line.
std::vector<Setting> read_config_file(const std::filesystem::path& file, std::vector<std::string>& faults);

/// A command line taken apart, nothing applied yet.
struct ParsedArguments {
  std::vector<Setting> settings;  ///< of the --config files in order, then of the command line
  CommandLine options;
  bool help = false;
  std::vector<std::string> faults;
};

/// Takes apart what follows the command's name. Never throws for what the user wrote: every fault is
/// collected.
ParsedArguments parse_arguments(const Command& command, const std::vector<std::string>& arguments);

/// Resolves arguments to a configuration; Error{usage} that lists every fault of files, options and values
/// together.
Config resolve_config(ParsedArguments parsed);

/// Usage, commands and every configuration option with unit and default.
std::string general_help();
std::string command_help(const Command& command);

/// The whole program but for MPI's start and end: finds the command, resolves the configuration, runs it.
ExitCode run_command_line(Session& session, const std::vector<std::string>& arguments);

}  // namespace surgery
