#pragma once
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "recipe/config.h"

namespace surgery {

/// Where a configuration option lives in Config, by type.
template <class T>
using Accessor = std::function<T&(Config&)>;
using AnyAccessor = std::variant<Accessor<std::string>, Accessor<int64_t>, Accessor<uint64_t>,
                                 Accessor<double>, Accessor<bool>>;

/// One configuration option. The default is the struct's own.
struct ConfigOption {
  std::string section, name;
  AnyAccessor access;
  std::string unit;  ///< "seconds", "pixels", ...; empty when it has none
  std::string help;
  std::vector<std::string> allowed;                           ///< of a text option; empty = any
  double minimum = -std::numeric_limits<double>::infinity();  ///< of a number, inclusive
  double maximum = std::numeric_limits<double>::infinity();
  /// Further check of a value; returns what is wrong with it, empty when nothing.
  std::function<std::string(const std::string&)> check;

  std::string key() const { return section + "." + name; }
  std::string default_value() const;
  /// The help text with unit, range or allowed values, and default.
  std::string description() const;
};

/// Every option of the configuration, sections in the order of Config. The parser, --help, the printed
/// configuration, its JSON and its hash all come from this one table.
const std::vector<ConfigOption>& config_table();
const ConfigOption* find_option(std::string_view key);

/// Value of one option as text that `set_option` takes back.
std::string get_option(const Config& config, const ConfigOption& option);
/// Sets one option from text; returns what is wrong with the value ("" when it was set).
std::string set_option(Config& config, const ConfigOption& option, const std::string& value);

/// One assignment of a file or of the command line.
struct Setting {
  std::string key, value;
  std::string origin;  ///< "recipe.cfg:12" or "command line"
};

/// Applies settings in order (later wins). Returns every fault found: unknown keys with the nearest known
/// one, bad values, values out of range, and combinations that cannot work.
std::vector<std::string> apply_settings(Config& config, const std::vector<Setting>& settings);
/// Faults of a whole configuration that no single option shows.
std::vector<std::string> check_combinations(const Config& config);

/// The resolved configuration as INI; reading it back gives the same configuration.
std::string to_ini(const Config& config);
nlohmann::ordered_json to_json(const Config& config);
/// XXH3-128 of `to_ini`, 32 hex digits.
std::string config_hash(const Config& config);

/// The known word nearest to `word` by edit distance (case and -/_ ignored); empty when nothing is near.
std::string nearest_word(std::string_view word, const std::vector<std::string>& known);

}  // namespace surgery
