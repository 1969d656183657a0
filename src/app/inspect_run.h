#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

namespace surgery {

/// What of a recipe's run lies in its folder: the stages of its config.cfg, what exists of each, and what is
/// missing. Names are counted, content is not read (recipe/run_status.h). None where no run has been.
std::optional<nlohmann::ordered_json> inspect_run(const std::filesystem::path& folder);

}  // namespace surgery
