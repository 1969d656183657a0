#include "recipe/clip_set.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "base/errors.h"
#include "base/log.h"
#include "base/progress.h"
#include "parallel/stop.h"
#include "recipe/clip_looks.h"
#include "recipe/data_section.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr size_t kProbesARound = 8;              // of one rank, between two looks at whether to stop
constexpr std::chrono::seconds kKeepProbes{30};  // between writing them; longer where that takes long

/// The rejects file of rank 0, made when the first line comes; and the count of all.
class Rejects {
 public:
  Rejects(std::filesystem::path path, bool writes) : path_(std::move(path)), writes_(writes) {}
  void add(const RejectedRecord& record) {
    tally_.add(record);
    if (!writes_) return;
    if (!file_) file_.emplace(path_);
    file_->write(reject_line(record));
  }
  void commit() {
    std::error_code ignored;
    if (file_)
      file_->commit();
    else if (writes_)
      std::filesystem::remove(path_, ignored);  // of an earlier choice
  }
  const DropTally& tally() const { return tally_; }

 private:
  std::filesystem::path path_;
  bool writes_;
  std::optional<AtomicFile> file_;
  DropTally tally_;
};

/// The kept probes, which a run can do without: what cannot be read or written is only warned of.
template <class Access>
void access_kept(const Access& access) {
  try {
    access();
  } catch (const Error& error) {
    log_warning("encode: what videos say of themselves is not kept: {}", error.what());
  }
}

VideoProbes kept_probes(const RunDirectory& run) {
  VideoProbes probes;
  access_kept([&] {
    if (const auto theirs = run.in_base(run.probes()); !theirs.empty()) probes.read(theirs);
  });
  access_kept([&] { probes.read(run.probes()); });
  return probes;
}

/// Collective: what the decoder says of the pending records, each asked by one rank; what it said of a video
/// is kept as it comes, whatever the rules are by then. None after a stop.
std::optional<std::vector<ClipVerdict>> probe(Recipe& recipe, std::span<const ManifestRecord> pending,
                                              const ClipRules& rules) {
  using Clock = std::chrono::steady_clock;
  Communicator& world = recipe.session.world();
  VideoProbes probes = kept_probes(recipe.run);
  const auto look = [&](const ManifestRecord& record) {
    recipe.progress(record.id);
    return look_at(record, rules, ClipLook::probe, &probes);
  };
  bool unkept = false;  // on rank 0 alone
  Clock::time_point due = Clock::now() + kKeepProbes;
  const auto keep = [&] {
    const Clock::time_point begin = Clock::now();
    access_kept([&] { probes.write(recipe.run.probes()); });
    unkept = false;
    due = Clock::now() + std::max<Clock::duration>(kKeepProbes, 20 * (Clock::now() - begin));
  };
  std::vector<ClipVerdict> verdicts;
  Progress progress("probe", std::ssize(pending), "clips");
  while (verdicts.size() < pending.size()) {
    const bool stop = agree_on_stop(world, recipe.stop_requested());
    if (!stop) {
      const size_t round = kProbesARound * static_cast<size_t>(recipe.session.size());
      const auto next = pending.subspan(verdicts.size(), std::min(round, pending.size() - verdicts.size()));
      std::ranges::move(look_together(recipe.session, next, look, progress), std::back_inserter(verdicts));
      for (const std::string& lines : world.gather_text(probes.take_new_lines()))
        if (recipe.session.rank() == 0 && probes.read_lines(lines)) unkept = true;
    }
    if (unkept && (stop || verdicts.size() == pending.size() || Clock::now() > due)) keep();
    if (stop) return {};
  }
  return verdicts;
}

void tell_drops(const DropTally& drops, const std::filesystem::path& rejects) {
  for (const auto& [kind, entry] : drops.kinds())
    log_info("encode: left out {} for '{}', as {}: {}", entry.count, kind, entry.examples.front().where,
             entry.examples.front().reason);
  if (drops.total() > 0) log_info("encode: all {} that are left out: {}", drops.total(), rejects.string());
}

}  // namespace

std::optional<ClipSet> choose_clips(Recipe& recipe, const std::filesystem::path& listing,
                                    const std::vector<RejectedRecord>& lost,
                                    const std::filesystem::path& rejects_path) {
  const DataSection& d = recipe.config.data;
  const auto rules = std::make_shared<const ClipRules>(clip_rules(d));
  const RandomKey captions = recipe.key("captions");
  const uint64_t seed = recipe.config.run.seed;
  const ClipListing records(listing, *rules, subset_key(seed), d.count);
  records.require_clips();

  ClipSet set;
  std::vector<ManifestRecord> pending;  // only the decoder can tell about these
  std::vector<size_t> places;           // theirs among the clips
  std::string chosen;
  Rejects rejects(rejects_path, recipe.session.rank() == 0);
  for (const RejectedRecord& record : lost) rejects.add(record);
  const auto take = [&](ManifestRecord record, const ClipVerdict& verdict) {
    chosen += subset_line(record.id, record.cut);
    set.clips.push_back(verdict.certain ? encode_clip(record, rules, verdict, captions) : EncodeClip{});
    if (verdict.certain) return;
    places.push_back(set.clips.size() - 1);
    pending.push_back(std::move(record));
  };
  records.each(take, [&](const RejectedRecord& record) { rejects.add(record); });

  if (!pending.empty()) {
    const auto verdicts = probe(recipe, pending, *rules);
    if (!verdicts) return {};
    for (size_t i = 0; i < pending.size(); ++i) {
      const ManifestRecord& record = pending[i];
      const ClipVerdict& verdict = (*verdicts)[i];
      // What cannot be read is left out of its shard by name: another time it might be there, and the other
      // clips keep their places.
      if (verdict.kept() || verdict.kind == kMissingFile || verdict.kind == kUnreadableFile)
        set.clips[places[i]] = encode_clip(record, rules, verdict, captions);
      else
        rejects.add({record.id, verdict.reason, verdict.kind});
    }
    std::erase_if(set.clips, [](const EncodeClip& clip) { return !clip.load; });
  }
  rejects.commit();
  tell_drops(rejects.tally(), rejects_path);
  if (set.clips.empty())
    fail_without_clips(listing, rejects.tally().total(),
                       rejects.tally().kinds().begin()->second.examples.front());
  if (records.taken() < records.usable())
    log_info("encode: {} of {} usable records are taken, by run.seed = {}", records.taken(), records.usable(),
             seed);
  set.index = {.source = d.videos,
               .count = d.count,
               .choice = clip_choice(d),
               .subset = {.rule = ClipListing::kRule,
                          .seed = seed,
                          .records = records.records(),
                          .usable = records.usable(),
                          .taken = records.taken(),
                          .hash = hash_bytes(chosen)},
               .shards = {}};
  return set;
}

void check_clips(const Config& config) {
  ClipListing(config.data.videos, clip_rules(config.data), subset_key(config.run.seed), 1).require_clips();
}

}  // namespace surgery
