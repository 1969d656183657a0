#include "app/options.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <sstream>

#include "app/startup.h"
#include "base/signals.h"
#include "base/text.h"
#include "parallel/agreed_error.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {
namespace po = boost::program_options;
constexpr unsigned help_columns = 100;

const char* value_name(const ConfigOption& option) {
  if (std::holds_alternative<Accessor<bool>>(option.access)) return "true|false";
  if (std::holds_alternative<Accessor<std::string>>(option.access))
    return option.allowed.empty() ? "TEXT" : "WORD";
  return std::holds_alternative<Accessor<double>>(option.access) ? "X" : "N";
}

/// The configuration for Boost, a group a section. Values stay text: the table parses them, so that all
/// faults of all options come out together.
std::vector<po::options_description> config_groups() {
  std::vector<po::options_description> groups;
  std::string section;
  for (const ConfigOption& option : config_table()) {
    if (option.section != section) {
      section = option.section;
      groups.emplace_back(fmt::format("[{}]", section), help_columns, help_columns / 2);
    }
    groups.back().add_options()(option.key().c_str(),
                                po::value<std::string>()->value_name(value_name(option)),
                                option.description().c_str());
  }
  return groups;
}

po::options_description all_config_options() {
  po::options_description all;
  for (const po::options_description& group : config_groups()) all.add(group);
  return all;
}

po::options_description own_options(const Command& command) {
  po::options_description own(fmt::format("Options of {}", command.name), help_columns, help_columns / 2);
  for (const CommandOption& option : command.options) {
    const std::string help = option.help + (option.required ? " (required)" : "");
    if (option.placeholder.empty())
      own.add_options()(option.name.c_str(), help.c_str());
    else
      own.add_options()(option.name.c_str(), po::value<std::string>()->value_name(option.placeholder),
                        help.c_str());
  }
  own.add_options()("config", po::value<std::string>()->value_name("FILE"),
                    "INI file of configuration; may be repeated, later files win");
  own.add_options()("help", "this text");
  return own;
}

/// Feeds Boost one option at a time, so that one fault does not hide the next.
class ArgumentParser {
 public:
  explicit ArgumentParser(const Command& command) : command_(command) {
    known_.add(own_options(command)).add(all_config_options());
  }

  ParsedArguments parse(const std::vector<std::string>& arguments) {
    bool options_ended = false;
    for (size_t i = 0; i < arguments.size(); ++i) {
      const std::string& token = arguments[i];
      if (token == "--" && !options_ended)
        options_ended = true;
      else if (token == "-h" && !options_ended)
        result_.help = true;
      else if (options_ended || token.size() < 2 || token[0] != '-')
        positional(token);
      else if (!token.starts_with("--"))
        result_.faults.push_back(fmt::format("unknown option {} (options have two dashes)", token));
      else if (const bool takes_next =
                   wants_value(token) && i + 1 < arguments.size() && !arguments[i + 1].starts_with("--");
               takes_next)
        option({token, arguments[++i]});
      else if (token.ends_with('=') && known_.find_nothrow(token.substr(2, token.size() - 3), false))
        option(
            {token.substr(0, token.size() - 1), ""});  // an empty value, which Boost takes in this form alone
      else
        option({token});
    }
    for (const CommandOption& own : command_.options)
      if (own.required && !result_.options.has(own.name) && !result_.help)
        result_.faults.push_back(
            fmt::format("{} needs --{} {}: {}", command_.name, own.name, own.placeholder, own.help));
    if (command_.configured_by_run && !config_given_) read_the_runs_own();
    result_.settings = std::move(from_files_);
    result_.settings.insert(result_.settings.end(), from_line_.begin(), from_line_.end());
    return std::move(result_);
  }

 private:
  /// Whether an option without '=' takes the next argument as its value.
  bool wants_value(const std::string& token) const {
    if (token.find('=') != std::string::npos) return false;
    const po::option_description* description = known_.find_nothrow(token.substr(2), false);
    if (description) return description->semantic()->max_tokens() > 0;
    return command_.positional.empty();  // unknown: its value, not a second fault
  }

  void positional(const std::string& token) {
    if (command_.positional.empty())
      result_.faults.push_back(fmt::format("unexpected argument '{}'", token));
    else
      result_.options.add_positional(token);
  }

  void option(const std::vector<std::string>& tokens) {
    using namespace po::command_line_style;
    try {
      const po::parsed_options parsed = po::command_line_parser(tokens)
                                            .options(known_)
                                            .allow_unregistered()
                                            .style(allow_long | long_allow_adjacent | long_allow_next)
                                            .run();
      for (const po::option& one : parsed.options) take(one);
    } catch (const po::error& error) {
      result_.faults.push_back(error.what());
    }
  }

  void take(const po::option& one) {
    const std::string name = one.unregistered ? bare_name(one.string_key) : one.string_key;
    if (name.empty()) return;  // the value of an unknown option
    const std::string value = one.value.empty() ? "" : one.value.front();
    if (name.find('.') != std::string::npos)
      from_line_.push_back({name, value, "command line"});
    else if (one.unregistered)
      unknown(name);
    else if (name == "help")
      result_.help = true;
    else if (name == "config") {
      config_given_ = true;
      for (Setting& setting : read_config_file(value, result_.faults))
        from_files_.push_back(std::move(setting));
    } else
      result_.options.set(name, value);
  }

  static std::string bare_name(const std::string& key) {
    return key.starts_with("--") ? key.substr(2, key.find('=') - 2) : key;
  }

  void unknown(const std::string& name) {
    std::vector<std::string> names{"config", "help"};
    for (const CommandOption& own : command_.options) names.push_back(own.name);
    for (const ConfigOption& config : config_table()) names.push_back(config.key());
    std::string nearest = nearest_word(name, names);
    for (const ConfigOption& config : config_table())
      if (nearest.empty() && config.name == name) nearest = config.key();
    result_.faults.push_back(
        fmt::format("{} has no option --{}{}", command_.name, name,
                    nearest.empty() ? "" : fmt::format(": did you mean --{}?", nearest)));
  }

  void read_the_runs_own() {
    for (const Setting& setting : from_line_) {
      if (setting.key != "run.directory") continue;
      const auto file = std::filesystem::path(setting.value) / "config.cfg";
      if (std::filesystem::exists(file)) from_files_ = read_config_file(file, result_.faults);
    }
  }

  const Command& command_;
  bool config_given_ = false;
  po::options_description known_;
  ParsedArguments result_;
  std::vector<Setting> from_files_, from_line_;
};

std::string without_comment(std::string line) {
  line.erase(std::min(line.find('#'), line.size()));
  while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
  line.erase(0, std::min(line.find_first_not_of(" \t"), line.size()));
  return line;
}

}  // namespace

std::vector<Setting> read_config_file(const std::filesystem::path& file, std::vector<std::string>& faults) {
  std::ifstream stream(file);
  if (!stream || std::filesystem::is_directory(file)) {
    faults.push_back(fmt::format("{}: cannot be read (no such file, or no permission)", file.string()));
    return {};
  }
  const po::options_description known = all_config_options();
  std::vector<Setting> settings;
  std::string line, section;
  for (int64_t number = 1; std::getline(stream, line); ++number) {
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    line = without_comment(line);
    if (line.empty()) continue;
    const std::string origin = fmt::format("{}:{}", file.string(), number);
    if (line.front() == '[' && line.back() == ']') {
      section = line.substr(1, line.size() - 2);
      continue;
    }
    // Boost parses a stream as a whole and forgets the lines; one line at a time keeps them.
    std::istringstream one_line((section.empty() ? "" : "[" + section + "]\n") + line + "\n");
    try {
      for (const po::option& one : po::parse_config_file(one_line, known, true).options)
        settings.push_back({one.string_key, one.value.empty() ? "" : one.value.front(), origin});
    } catch (const po::error&) {
      faults.push_back(fmt::format("{}: '{}' is neither [section] nor key = value", origin, line));
    }
  }
  if (stream.bad()) faults.push_back(fmt::format("{}: reading failed", file.string()));
  return settings;
}

ParsedArguments parse_arguments(const Command& command, const std::vector<std::string>& arguments) {
  return ArgumentParser(command).parse(arguments);
}

Config resolve_config(ParsedArguments parsed) {
  Config config;
  std::vector<std::string> faults = std::move(parsed.faults);
  for (std::string& fault : apply_settings(config, parsed.settings)) faults.push_back(std::move(fault));
  if (faults.empty()) return config;
  std::string message = fmt::format("{} in the options and the configuration (nothing was started):",
                                    faults.size() == 1 ? "1 fault" : fmt::format("{} faults", faults.size()));
  for (const std::string& fault : faults) message += "\n  " + fault;
  throw Error(ExitCode::usage, message);
}

std::string general_help() {
  std::ostringstream text;
  text << "surgery replaces a video diffusion transformer's self-attention by hybrid softmax+linear "
          "attention,\n"
          "block by block.\n\n"
          "Usage: surgery COMMAND [--config FILE]... [--section.key=value]...\n"
          "A dotted name is configuration, a bare one belongs to the command; later settings "
          "win.\n\nCommands:\n";
  for (const Command& command : commands())
    text << fmt::format("  {:<12}{}\n", command.name, command.summary);
  text << "\n'surgery COMMAND --help' shows a command's own options; 'surgery --version' the version.\n"
          "Exit codes: 0 done; 64 bad usage or configuration; 65 bad input data; 70 internal; 74 input or "
          "output\n"
          "failed; 75 stopped cleanly with work left.\n\nConfiguration:\n";
  for (const po::options_description& group : config_groups()) text << group << "\n";
  return text.str();
}

std::string command_help(const Command& command) {
  std::ostringstream text;
  text << fmt::format("surgery {}: {}\n\nUsage: surgery {}{} [--config FILE]... [--section.key=value]...\n\n",
                      command.name, command.summary, command.name,
                      command.positional.empty() ? "" : " " + command.positional);
  text << own_options(command) << "\nConfiguration:\n";
  for (const po::options_description& group : config_groups()) text << group << "\n";
  return text.str();
}

namespace {

/// Takes the command line apart and resolves the configuration; no command when help or version was printed.
struct Invocation {
  const Command* command = nullptr;
  Config config;
  CommandLine options;
};

Invocation read_command_line(const std::vector<std::string>& arguments, bool speaks) {
  const std::string first = arguments.empty() ? "" : arguments.front();
  if (first.empty()) fail_usage("no command was given: surgery --help lists them");
  if (first == "--help" || first == "-h" || first == "help") {
    if (speaks) fmt::print("{}", general_help());
    return {};
  }
  if (first == "--version") {
    if (speaks) fmt::print("{}\n", version_line());
    return {};
  }
  const Command& command = find_command(first);
  ParsedArguments parsed = parse_arguments(command, {arguments.begin() + 1, arguments.end()});
  if (parsed.help) {
    if (speaks) fmt::print("{}", command_help(command));
    return {};
  }
  CommandLine options = parsed.options;
  return {&command, resolve_config(std::move(parsed)), std::move(options)};
}

/// What tells two configurations of ranks apart: the first line that differs, with its section.
std::string difference(const std::string& first, const std::string& second) {
  const std::vector<std::string> ours = split(first, '\n'), theirs = split(second, '\n');
  std::string section;
  size_t line = 0;
  for (; line < ours.size() && line < theirs.size() && ours[line] == theirs[line]; ++line)
    if (ours[line].starts_with('[')) section = ours[line] + " ";
  const auto shown = [&](const std::vector<std::string>& lines) {
    return line < lines.size() ? section + lines[line] : "nothing";
  };
  return fmt::format("\"{}\" against \"{}\"", shown(ours), shown(theirs));
}

/// Collective: Error{usage} where a rank has read something else than rank 0, or one of them with a fault: a
/// file of settings may be another on another node.
void check_alike(Session& session, const std::string& read, const std::string& fault) {
  Communicator& world = session.world();
  const std::vector<std::string> hashes = world.gather_text(hash_bytes(read + '\0' + fault));
  const auto other = std::ranges::find_if(hashes, [&](const auto& hash) { return hash != hashes.front(); });
  if (other == hashes.end()) return;
  const auto rank = static_cast<int>(other - hashes.begin());
  const std::string first = world.broadcast_text(read, 0), second = world.broadcast_text(read, rank),
                    first_fault = world.broadcast_text(fault, 0),
                    second_fault = world.broadcast_text(fault, rank),
                    host = world.broadcast_text(session.host(), rank);
  throw AgreedError(
      ExitCode::usage,
      fmt::format("rank {} on {} has read another command line or configuration than rank 0 (nothing was "
                  "started; start all ranks alike): {}",
                  rank, host,
                  !second_fault.empty()  ? second_fault
                  : !first_fault.empty() ? fmt::format("rank 0 found {}", first_fault)
                                         : difference(second, first)));
}

}  // namespace

ExitCode run_command_line(Session& session, const std::vector<std::string>& arguments) {
  Invocation invocation;
  std::optional<Error> fault;
  try {
    invocation = read_command_line(arguments, session.rank() == 0);
  } catch (const Error& error) {
    fault = error;
  }
  const std::string text = to_ini(invocation.config);
  const std::string command = invocation.command ? invocation.command->name : "";
  check_alike(session, fmt::format("{}{}\n{}", command, invocation.options.to_text(), text),
              fault ? fault->what() : "");
  if (fault) throw AgreedError(fault->code(), fault->what());  // every rank's: one message is enough
  if (!invocation.command) return ExitCode::done;
  Context context{session, std::move(invocation.config), std::move(invocation.options), "", ""};
  context.config_text = text;
  context.config_hash = config_hash(context.config);
  if (invocation.command->stop_signals == StopSignals::end) release_stop_signals();
  set_threads(session, context.config.run.threads);
  forbid_tf32();
  if (invocation.command->kind == CommandKind::recipe) print_startup(context);
  return invocation.command->run(context);
}

}  // namespace surgery
