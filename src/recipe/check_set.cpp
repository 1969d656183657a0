#include "recipe/check_set.h"

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "recipe/data_section.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

/// Goes through the taken clips in rounds: every rank looks at its share, then all tell each other. So no
/// rank holds more than a round, and what is told has one order.
class Rounds {
 public:
  Rounds(Session& session, const ClipListing& listing, ClipLook look, const std::filesystem::path& rejects,
         SetReport& report)
      : session_(session),
        rules_(listing.rules()),
        look_(look),
        report_(report),
        progress_("check", listing.taken(), "clips") {
    if (!rejects.empty() && session.rank() == 0) file_.emplace(rejects);
  }

  void take(ManifestRecord record) {
    if (in_round_ % session_.size() == session_.rank()) mine_.emplace_back(in_round_, std::move(record));
    if (++in_round_ == kRound) finish_round();
  }

  void drop(const RejectedRecord& record) {
    report_.drops.add(record);
    if (file_) file_->write(reject_line(record));
  }

  void finish_round() {
    std::string found;
    int64_t shown = 0;
    for (const auto& [number, record] : mine_) {
      found += line(number, record);
      const int64_t step = std::min<int64_t>(session_.size(), in_round_ - shown);  // the others are as far
      progress_.advance(step);
      shown += step;
    }
    progress_.advance(in_round_ - shown);
    tell(session_.world().gather_text(found));
    mine_.clear();
    in_round_ = 0;
  }

  void finish() {
    if (in_round_ > 0) finish_round();
    progress_.finish();
    if (file_) file_->commit();
  }

 private:
  static constexpr int64_t kRound = 512;

  /// "number TAB bucket", or "number TAB kind TAB id TAB reason".
  std::string line(int64_t number, const ManifestRecord& record) const {
    ClipVerdict verdict;
    try {
      verdict = look_at(record, rules_, look_);
    } catch (const Error& error) {  // here a report is wanted, whoever's fault it is
      if (error.code() != ExitCode::io) throw;
      verdict = {.kind = kUnreadableFile, .reason = error.what()};
    }
    if (verdict.kept()) return fmt::format("{}\t{}\n", number, verdict.bucket);
    std::string id = record.id;
    for (std::string* text : {&id, &verdict.reason})
      for (const char separator : {'\t', '\n'}) std::ranges::replace(*text, separator, ' ');
    return fmt::format("{}\t{}\t{}\t{}\n", number, verdict.kind, id, verdict.reason);
  }

  void tell(const std::vector<std::string>& found) {
    std::vector<std::vector<std::string>> lines(static_cast<size_t>(in_round_));
    for (const std::string& text : found)
      for (const std::string& one : split(text, '\n')) {
        if (one.empty()) continue;
        std::vector<std::string> parts = split(one, '\t');
        lines.at(parse_number<size_t>(parts.at(0)).value()) = std::move(parts);
      }
    for (const auto& parts : lines)
      if (parts.size() == 2)
        ++report_.buckets.at(parse_number<size_t>(parts[1]).value()).second;
      else
        drop({parts.at(2), parts.at(3), parts.at(1)});
  }

  Session& session_;
  const ClipRules& rules_;
  ClipLook look_;
  SetReport& report_;
  Progress progress_;
  std::optional<AtomicFile> file_;
  std::vector<std::pair<int64_t, ManifestRecord>> mine_;
  int64_t in_round_ = 0;
};

}  // namespace

int64_t SetReport::usable() const {
  int64_t sum = 0;
  for (const auto& [shape, count] : buckets) sum += count;
  return sum;
}

SetReport check_set(Session& session, const Config& config, ClipLook look,
                    const std::filesystem::path& rejects) {
  const DataSection& d = config.data;
  if (d.videos.starts_with("shapes:"))
    fail_usage("data.videos = {}: these clips are drawn when they are encoded: name a listing to check it",
               d.videos);
  if (!video_supported())
    fail_usage("this build reads no video (SURGERY_VIDEO is off): configure with -DSURGERY_VIDEO=ON");
  const ClipListing listing(d.videos, clip_rules(d), subset_key(config.run.seed), d.count);
  SetReport report{.records = listing.records(),
                   .usable_by_annotation = listing.usable(),
                   .taken = listing.taken(),
                   .buckets = {},
                   .drops = {}};
  for (const ClipShape& shape : clip_shapes(d)) report.buckets.emplace_back(shape, 0);
  Rounds rounds(session, listing, look, rejects, report);
  listing.each([&](ManifestRecord record, const ClipVerdict&) { rounds.take(std::move(record)); },
               [&](const RejectedRecord& record) { rounds.drop(record); });
  rounds.finish();
  return report;
}

std::string set_report_text(const SetReport& report) {
  const auto row = [](const std::string& name, int64_t count) {
    return fmt::format("{:<40}{:>12}\n", name, count);
  };
  std::string text = row("records", report.records);
  for (const auto& [kind, entry] : report.drops.kinds()) {
    text += row("  left out: " + kind, entry.count);
    for (const RejectedRecord& example : entry.examples)
      text += fmt::format("      {}: {}\n", example.where, example.reason);
  }
  if (report.taken < report.usable_by_annotation)
    text += row("  not taken (data.count)", report.usable_by_annotation - report.taken);
  text += row("usable clips", report.usable());
  for (const auto& [shape, count] : report.buckets) text += row("  of " + to_string(shape), count);
  return text;
}

}  // namespace surgery
