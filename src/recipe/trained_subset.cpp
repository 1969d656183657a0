#include "recipe/trained_subset.h"

#include <fnmatch.h>

#include <algorithm>

#include "base/errors.h"
#include "base/text.h"

namespace surgery {
namespace {

constexpr const char* kHybrid = "hybrid-attention";

}  // namespace

TrainedSubset::TrainedSubset(const std::string& text, const std::vector<Rate>& rates)
    : parts_(split(without_spaces(text), ',')) {
  for (const std::string& part : parts_)
    if (part.empty())
      fail_usage(
          "finetune.train = '{}' has an empty part: all, {}, or patterns of names, separated by commas", text,
          kHybrid);
  for (size_t block = 0; block < rates.size(); ++block)
    if (!rates[block].is_full()) hybrid_.push_back(fmt::format("blocks.{}.attn1.", block));
}

bool TrainedSubset::matches(const std::string& part, const std::string& name) const {
  if (part == "all") return true;
  if (part == kHybrid)
    return std::ranges::any_of(hybrid_, [&](const std::string& prefix) { return name.starts_with(prefix); });
  return ::fnmatch(part.c_str(), name.c_str(), 0) == 0;
}

bool TrainedSubset::contains(const std::string& name) const {
  return std::ranges::any_of(parts_, [&](const std::string& part) { return matches(part, name); });
}

void check_trained(const std::string& train, TransformerConfig teacher) {
  teacher.hybrid =
      HybridSettings{.rates = std::vector<Rate>(static_cast<size_t>(teacher.num_layers), Rate::parse("2"))};
  std::vector<std::string> names;
  for (const auto& [name, shape] : transformer_parameter_shapes(teacher)) names.push_back(name);
  TrainedSubset(train, teacher.hybrid->rates).check(names);
}

void TrainedSubset::check(const std::vector<std::string>& names) const {
  for (const std::string& part : parts_)
    if (std::ranges::none_of(names, [&](const std::string& name) { return matches(part, name); }))
      fail_usage("finetune.train: '{}' names no parameter of this student{}", part,
                 part == kHybrid ? " (no block of it is hybrid): leave it out"
                                 : fmt::format(" (one of its {} is {}): write all, {}, or a pattern of names",
                                               names.size(), names.front(), kHybrid));
}

}  // namespace surgery
