#pragma once
#include <functional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "data/clip_listing.h"
#include "parallel/session.h"

namespace surgery {

/// Collective: `look` is asked about every record by one rank; the verdicts are given to every rank, in the
/// records' order. Their reasons are of one line. `progress` goes on by all records.
std::vector<ClipVerdict> look_together(Session& session, std::span<const ManifestRecord> records,
                                       const std::function<ClipVerdict(const ManifestRecord&)>& look,
                                       Progress& progress);

}  // namespace surgery
