#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "data/clip_listing.h"
#include "parallel/session.h"
#include "recipe/config.h"

namespace surgery {

/// What `encode` would make of a set.
struct SetReport {
  int64_t records = 0, usable_by_annotation = 0, taken = 0;
  std::vector<std::pair<ClipShape, int64_t>> buckets;  ///< clips that would be encoded
  DropTally drops;
  int64_t usable() const;
};

/// Collective: goes through the set that data.videos names as `encode` would, without a model and without
/// writing anything: filters by the annotations, then looks at the files of all clips that are taken, shared
/// out over the ranks. `rejects`, where it is not empty: a file of what is left out, a line each, the same at
/// any number of ranks. The report is whole on every rank; memory does not grow with the set but for the
/// choice of data.count clips.
/// Error{usage} for a set that is drawn, not read; Error{io}, Error{data} for a listing that cannot be read.
SetReport check_set(Session& session, const Config& config, ClipLook look,
                    const std::filesystem::path& rejects);
std::string set_report_text(const SetReport& report);

}  // namespace surgery
