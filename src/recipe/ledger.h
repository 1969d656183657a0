#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "report/html.h"

namespace surgery {

/// Objects of a .jsonl file, one a line; a line that a killed writer left half is passed over.
std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& path);

/// What the calls of every stage have cost: the ledger's lines (StageTimer's) summed by stage, since a run
/// that was continued often has many of each.
Table ledger_table(const std::filesystem::path& ledger);

}  // namespace surgery
