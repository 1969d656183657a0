#pragma once
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "recipe/config.h"

namespace surgery {

/// How much of a stage lies in the run directory.
struct StageStatus {
  std::string stage, command;  ///< "trajectories"; the command that makes this stage alone
  std::string unit;            ///< what is counted: "prompts"
  int64_t exists = 0;
  int64_t in_base = 0;                 ///< not here, but of the same name in the run that run.base names
  std::optional<int64_t> wanted = {};  ///< none: not known before the stage looks
  /// Counts the file that is called `name` where it is, as so many pieces.
  void add(const std::string& name, const std::set<std::string>& here, const std::set<std::string>& base,
           int64_t pieces = 1);
  /// Share of the stage that neither this run nor its base has; 1 where that is not known.
  double left() const;
  bool complete() const { return wanted && exists >= *wanted; }
  /// "3 of 7"; "3" where it is not known of how many.
  std::string count() const;
};

/// Every stage of the recipe that this configuration needs, in the data's order, told from the names of
/// files, and from the headers of blocks and shards, which exist before they are finished. Content is neither
/// read nor compared with the settings: a stage does that before it reuses anything or takes it from the
/// base. `blocks`: of the teacher; none where that is not known. A stage whose files cannot be opened counts
/// them as missing.
std::vector<StageStatus> run_status(const Config& config, std::optional<int64_t> blocks);

/// What is missing, in words: "distill (3 of 10 blocks there), tables, select"; empty when nothing is.
std::string missing_text(const std::vector<StageStatus>& stages);
/// What is there, whole or in part: "trajectories (7 of 7 prompts), distill (3 of 10 blocks, 7 in run.base)".
std::string existing_text(const std::vector<StageStatus>& stages);

/// Ends the page of a finished run: what it was derived from. One without was made on the way.
std::string report_stamp(const std::string& fingerprint);

}  // namespace surgery
