#include "recipe/config_checks.h"

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "base/text.h"
#include "data/clip_rules.h"
#include "recipe/budget.h"
#include "recipe/data_section.h"
#include "recipe/finetune_origin.h"
#include "recipe/run_control.h"

namespace surgery {
namespace {

std::vector<std::string> list(std::string_view text) {
  return split(without_spaces(text), ',');
}

bool is_rate(std::string_view text) {
  return text == "linear" || parse_number<int64_t>(text).value_or(0) >= 1;
}

}  // namespace

std::string check_not_empty(const std::string& text) {
  return text.empty() ? "must not be empty" : "";
}

std::string check_resume_word(const std::string& text) {
  if (!names_checkpoint(text) || text.find('/') != std::string::npos) return "";
  return "must be auto, must or never, or the folder of a finetuning's checkpoint, with a /";
}

std::string check_frames(const std::string& text) {
  if ((parse_number<int64_t>(text).value_or(1) - 1) % 4 == 0) return "";
  return "must be 4k+1 (the VAE makes one latent frame of the first frame and of every four that follow)";
}

std::string check_side(const std::string& text) {
  if (parse_number<int64_t>(text).value_or(0) % 16 == 0) return "";
  return "must be a multiple of 16 (8 pixels a latent cell, 2 cells a patch)";
}

std::string check_cells(const std::string& text) {
  if (parse_number<int64_t>(text).value_or(0) % 8 == 0) return "";
  return "must be a multiple of 8 (8 pixels a latent cell)";
}

std::string check_rate(const std::string& text) {
  return is_rate(text) ? "" : "is no rate: a positive integer or linear";
}

std::string check_rates(const std::string& text) {
  std::set<std::string> seen;
  for (const std::string& part : list(text)) {
    if (!is_rate(part)) return fmt::format("'{}' is no rate: a list of integers above 1 and linear", part);
    if (part == "1") return "must not hold rate 1 (it is the teacher itself, its error is 0)";
    if (!seen.insert(part).second) return fmt::format("holds '{}' twice", part);
  }
  return "";
}

namespace {
/// What a parser says of a text that it refuses.
template <class Parser>
std::string fault_of(const Parser& parse, const std::string& text) {
  try {
    parse(text);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}
}  // namespace

std::string check_budget(const std::string& text) {
  return fault_of(parse_budget, text);
}

std::string check_pins(const std::string& text) {
  if (text.empty()) return "";
  std::set<int64_t> seen;
  for (const std::string& part : list(text)) {
    const size_t equal = part.find('=');
    const auto block = parse_number<int64_t>(std::string_view(part).substr(0, equal));
    if (equal == std::string::npos || block.value_or(-1) < 0 ||
        !is_rate(std::string_view(part).substr(equal + 1)))
      return fmt::format("'{}' is no pin: BLOCK=RATE, as 0=1 or 29=linear", part);
    if (!seen.insert(*block).second) return fmt::format("pins block {} twice", *block);
  }
  return "";
}

std::string check_increasing(const std::string& text) {
  if (text.empty()) return "";
  int64_t last = 0;
  for (const std::string& part : list(text)) {
    const auto value = parse_number<int64_t>(part);
    if (!value) return fmt::format("'{}' is no integer", part);
    if (*value <= last) return fmt::format("must be positive and increasing, {} follows {}", *value, last);
    last = *value;
  }
  return "";
}

std::string check_buckets(const std::string& text) {
  if (text.empty()) return "";
  std::set<ClipShape> seen;
  for (const std::string& part : list(text)) {
    const auto shape = parse_clip_shape(part);
    if (!shape) return fmt::format("'{}' is no bucket: FRAMESxHEIGHTxWIDTH, as 81x480x832", part);
    for (const std::string& fault :
         {check_frames(std::to_string(shape->frames)), check_side(std::to_string(shape->height)),
          check_side(std::to_string(shape->width))})
      if (!fault.empty()) return fmt::format("'{}' {}", part, fault);
    if (shape->frames > 4097 || shape->height > 16384 || shape->width > 16384)
      return fmt::format("'{}' is too large: at most 4097x16384x16384", part);
    if (!seen.insert(*shape).second) return fmt::format("names {} twice", part);
  }
  return "";
}

std::string check_shard_sets(const std::string& text) {
  return fault_of(parse_shard_sets, text);
}

std::string check_stall_limits(const std::string& text) {
  return fault_of(parse_stall_limits, text);
}

std::string check_aspect(const std::string& text) {
  const double value = parse_number<double>(text).value_or(0);
  return value == 0 || value >= 1 ? "" : "must be 1 or more (2 = half as high to twice as high), or 0";
}

}  // namespace surgery
