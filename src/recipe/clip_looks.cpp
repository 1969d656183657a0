#include "recipe/clip_looks.h"

#include <algorithm>

#include "base/errors.h"
#include "base/text.h"

namespace surgery {
namespace {

std::string verdict_line(size_t index, const ClipVerdict& verdict) {
  return fmt::format("{}\t{}\t{}\t{}\t{}\n", index, verdict.bucket, verdict.enlarged ? 1 : 0, verdict.kind,
                     one_line(verdict.reason));
}

/// How many they are.
size_t read_verdicts(const std::string& lines, std::vector<ClipVerdict>& verdicts) {
  size_t count = 0;
  for (const std::string& line : split(lines, '\n')) {
    if (line.empty()) continue;
    const std::vector<std::string> parts = split(line, '\t');
    verdicts.at(parse_number<size_t>(parts.at(0)).value()) = {
        .kind = parts.at(3),
        .reason = parts.at(4),
        .bucket = parse_number<size_t>(parts.at(1)).value(),
        .enlarged = parts.at(2) == "1"};
    ++count;
  }
  return count;
}

}  // namespace

std::vector<ClipVerdict> look_together(Session& session, std::span<const ManifestRecord> records,
                                       const std::function<ClipVerdict(const ManifestRecord&)>& look,
                                       Progress& progress) {
  const auto ranks = static_cast<size_t>(session.size());
  size_t shown = 0;
  std::string mine;
  for (auto i = static_cast<size_t>(session.rank()); i < records.size(); i += ranks) {
    mine += verdict_line(i, look(records[i]));
    const size_t step = std::min(ranks, records.size() - shown);  // the others are as far
    progress.advance(static_cast<int64_t>(step));
    shown += step;
  }
  progress.advance(static_cast<int64_t>(records.size() - shown));
  std::vector<ClipVerdict> verdicts(records.size());
  size_t told = 0;
  for (const std::string& lines : session.world().gather_text(mine)) told += read_verdicts(lines, verdicts);
  EXPECT(told == records.size());
  return verdicts;
}

}  // namespace surgery
