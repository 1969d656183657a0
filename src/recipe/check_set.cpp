#include "recipe/check_set.h"

#include <optional>

#include "base/errors.h"
#include "data/web_dataset.h"
#include "recipe/clip_looks.h"
#include "recipe/data_section.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

/// Goes through the taken clips in rounds, so that no rank holds more than a round, and what is told has one
/// order.
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
    round_.push_back(std::move(record));
    if (round_.size() == kRound) finish_round();
  }

  void drop(const RejectedRecord& record) {
    report_.drops.add(record);
    if (file_) file_->write(reject_line(record));
  }

  void finish() {
    if (!round_.empty()) finish_round();
    progress_.finish();
    if (file_) file_->commit();
  }

 private:
  static constexpr size_t kRound = 512;

  ClipVerdict look(const ManifestRecord& record) const {
    try {
      return look_at(record, rules_, look_);
    } catch (const Error& error) {  // here a report is wanted, whoever's fault it is
      if (error.code() != ExitCode::io) throw;
      return {.kind = kUnreadableFile, .reason = error.what()};
    }
  }

  void finish_round() {
    const auto verdicts = look_together(
        session_, round_, [this](const ManifestRecord& record) { return look(record); }, progress_);
    for (size_t i = 0; i < round_.size(); ++i)
      if (verdicts[i].kept())
        ++report_.buckets.at(verdicts[i].bucket).second;
      else
        drop({round_[i].id, verdicts[i].reason, verdicts[i].kind});
    round_.clear();
  }

  Session& session_;
  const ClipRules& rules_;
  ClipLook look_;
  SetReport& report_;
  Progress progress_;
  std::optional<AtomicFile> file_;
  std::vector<ManifestRecord> round_;
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
  if (is_web_dataset(d.videos))
    fail_usage(
        "data.videos = {}: videos in tar shards are unpacked by 'surgery encode' (into data/clips of the "
        "run); "
        "check the listing that it writes there",
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
