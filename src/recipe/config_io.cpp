// Reading, checking and printing a configuration through the option table.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "recipe/config_table.h"
#include "recipe/sampling.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

template <class T>
std::string parse_number(const std::string& text, T& value, const char* kind) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range) return fmt::format("is out of the range of {}", kind);
  if (error != std::errc{} || stop != end) return fmt::format("is not {}", kind);
  return "";
}

std::string parse(const std::string& text, std::string& value) {
  value = text;
  // What INI files cannot carry would be lost when the printed configuration is read back.
  if (text.find_first_of("#\n\r") != std::string::npos)
    return "holds '#' or a line break (INI files end a value there)";
  if (!text.empty() && (std::isspace(static_cast<unsigned char>(text.front())) ||
                        std::isspace(static_cast<unsigned char>(text.back()))))
    return "begins or ends with white space (INI files drop it)";
  return "";
}
std::string parse(const std::string& text, int64_t& value) {
  return parse_number(text, value, "an integer");
}
std::string parse(const std::string& text, uint64_t& value) {
  return parse_number(text, value, "a non-negative integer");
}
std::string parse(const std::string& text, double& value) {
  const std::string fault = parse_number(text, value, "a number");
  return fault.empty() && !std::isfinite(value) ? "is not a finite number" : fault;
}
std::string parse(const std::string& text, bool& value) {
  const std::set<std::string> yes{"true", "yes", "on", "1"}, no{"false", "no", "off", "0"};
  value = yes.contains(text);
  return yes.contains(text) || no.contains(text) ? "" : "is neither true nor false";
}

std::string range_text(const ConfigOption& option) {
  const bool low = std::isfinite(option.minimum), high = std::isfinite(option.maximum);
  if (low && high) return fmt::format("{} to {}", option.minimum, option.maximum);
  if (low) return fmt::format("at least {}", option.minimum);
  return high ? fmt::format("at most {}", option.maximum) : "";
}

std::string join(const std::vector<std::string>& words, const char* separator) {
  std::string result;
  for (const std::string& word : words) result += (result.empty() ? "" : separator) + word;
  return result;
}

std::string check_value(const ConfigOption& option, const std::string& text, const std::string&) {
  if (option.allowed.empty() ||
      std::find(option.allowed.begin(), option.allowed.end(), text) != option.allowed.end())
    return "";
  const std::string nearest = nearest_word(text, option.allowed);
  return fmt::format("must be one of {}{}", join(option.allowed, ", "),
                     nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest));
}
std::string check_value(const ConfigOption&, const std::string&, bool) {
  return "";
}
template <class T>
std::string check_value(const ConfigOption& option, const std::string&, T value) {
  const double number = static_cast<double>(value);
  return number < option.minimum || number > option.maximum ? "must be " + range_text(option) : "";
}

/// Lower case, '-' as '_': what people mix up in keys is not a difference.
std::string folded(std::string_view word) {
  std::string result(word);
  for (char& c : result) c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

/// Edits (insert, delete, replace) that turn one word into the other: Levenshtein's distance by rows.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

std::string unknown_key(const std::string& key) {
  std::vector<std::string> known;
  for (const ConfigOption& option : config_table()) known.push_back(option.key());
  std::string nearest = nearest_word(key, known);
  if (nearest.empty()) {  // the name alone, in another section
    const std::string name = key.substr(key.find('.') + 1);
    for (const ConfigOption& option : config_table())
      if (folded(option.name) == folded(name)) nearest = option.key();
  }
  return fmt::format("unknown option {}{}", key,
                     nearest.empty() ? "" : fmt::format(": did you mean {}?", nearest));
}

}  // namespace

std::string nearest_word(std::string_view word, const std::vector<std::string>& known) {
  std::string nearest;
  size_t best = std::max<size_t>(2, word.size() / 3) + 1;  // further away is another word, not a slip
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(folded(word), folded(candidate));
    if (distance < best) best = distance, nearest = candidate;
  }
  return nearest;
}

std::string get_option(const Config& config, const ConfigOption& option) {
  // Accessors give writable references; nothing is written here.
  return std::visit(
      [&](const auto& access) { return fmt::format("{}", access(const_cast<Config&>(config))); },
      option.access);
}

std::string set_option(Config& config, const ConfigOption& option, const std::string& text) {
  return std::visit(
      [&](const auto& access) {
        auto& target = access(config);
        std::remove_reference_t<decltype(target)> value{};
        std::string fault = parse(text, value);
        if (fault.empty()) fault = check_value(option, text, value);
        if (fault.empty() && option.check) fault = option.check(text);
        if (fault.empty()) target = value;
        return fault;
      },
      option.access);
}

std::string ConfigOption::default_value() const {
  return get_option(Config{}, *this);
}

std::string ConfigOption::description() const {
  std::string text = help;
  if (!unit.empty()) text += fmt::format(" [{}]", unit);
  if (!allowed.empty()) text += fmt::format("; one of {}", join(allowed, ", "));
  const std::string range = range_text(*this);
  if (!range.empty()) text += "; " + range;
  const std::string value = default_value();
  return text + fmt::format(" (default: {})", value.empty() ? "empty" : value);
}

std::vector<std::string> apply_settings(Config& config, const std::vector<Setting>& settings) {
  std::vector<std::string> faults;
  for (const Setting& setting : settings) {
    const ConfigOption* option = find_option(setting.key);
    const std::string fault = option ? set_option(config, *option, setting.value) : unknown_key(setting.key);
    if (fault.empty()) continue;
    faults.push_back(option
                         ? fmt::format("{}: {} = '{}' {}", setting.origin, setting.key, setting.value, fault)
                         : fmt::format("{}: {}", setting.origin, fault));
  }
  for (std::string& fault : check_combinations(config)) faults.push_back(std::move(fault));
  return faults;
}

namespace {

std::string vae_tiling_fault(const ModelSection& model) {
  if (model.vae_tile == 0 && model.vae_tile_stride > 0)
    return fmt::format("model.vae_tile_stride = {} does nothing without tiles: set model.vae_tile",
                       model.vae_tile_stride);
  if (model.vae_tile > 0 && model.vae_tile_stride > model.vae_tile)
    return fmt::format(
        "model.vae_tile_stride = {} is more than model.vae_tile = {} (pixels between the tiles would "
        "be lost)",
        model.vae_tile_stride, model.vae_tile);
  return "";
}

}  // namespace

std::vector<std::string> check_combinations(const Config& config) {
  std::vector<std::string> faults;
  const FinetuneSection& finetune = config.finetune;
  if (finetune.global_batch % finetune.micro_batch != 0)
    faults.push_back(fmt::format("finetune.global_batch = {} is not a multiple of finetune.micro_batch = {}",
                                 finetune.global_batch, finetune.micro_batch));
  if (!finetune.checkpoints.empty() && finetune.iterations > 0) {
    const std::string last = finetune.checkpoints.substr(finetune.checkpoints.rfind(',') + 1);
    if (std::stoll(last) > finetune.iterations)
      faults.push_back(
          fmt::format("finetune.checkpoints ends at {}, after finetune.iterations = {} (that checkpoint "
                      "would never be made)",
                      last, finetune.iterations));
  }
  if (const std::string fault = vae_tiling_fault(config.model); !fault.empty()) faults.push_back(fault);
  for (const std::string& fault :
       {sampling_fault(config.trajectories, "trajectories"), sampling_fault(config.generate, "generate")})
    if (!fault.empty()) faults.push_back(fault);
  if (config.select.column == "milliseconds" && config.cost.measure != "milliseconds")
    faults.push_back(
        "select.column = milliseconds needs cost.measure = milliseconds (else the column stays empty)");
  if (config.distill.group_timesteps > config.trajectories.steps)
    faults.push_back(
        fmt::format("distill.group_timesteps = {} exceeds trajectories.steps = {} (0 = all of them)",
                    config.distill.group_timesteps, config.trajectories.steps));
  if (config.distill.held_out_timesteps > config.trajectories.steps)
    faults.push_back(fmt::format("distill.held_out_timesteps = {} exceeds trajectories.steps = {}",
                                 config.distill.held_out_timesteps, config.trajectories.steps));
  return faults;
}

std::string to_ini(const Config& config) {
  std::string text, section;
  for (const ConfigOption& option : config_table()) {
    if (option.section != section) {
      text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", option.section);
      section = option.section;
    }
    const std::string value = get_option(config, option);
    text += value.empty() ? fmt::format("{} =\n", option.name) : fmt::format("{} = {}\n", option.name, value);
  }
  return text;
}

nlohmann::ordered_json to_json(const Config& config) {
  nlohmann::ordered_json json;
  for (const ConfigOption& option : config_table())
    std::visit(
        [&](const auto& access) { json[option.section][option.name] = access(const_cast<Config&>(config)); },
        option.access);
  return json;
}

std::string config_hash(const Config& config) {
  return hash_bytes(to_ini(config));
}

}  // namespace surgery
