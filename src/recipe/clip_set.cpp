#include "recipe/clip_set.h"

#include <algorithm>

#include "base/errors.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/text.h"
#include "parallel/stop.h"
#include "recipe/data_section.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

/// A record that only the decoder can tell about, and its place among the clips.
struct Pending {
  size_t place;
  ManifestRecord record;
};

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

std::string packed(size_t index, const ClipVerdict& verdict) {
  std::string reason = verdict.reason;
  std::ranges::replace(reason, '\n', ' ');
  std::ranges::replace(reason, '\t', ' ');
  return fmt::format("{}\t{}\t{}\t{}\t{}\n", index, verdict.bucket, verdict.enlarged ? 1 : 0, verdict.kind,
                     reason);
}

void unpack(const std::string& text, std::vector<ClipVerdict>& verdicts) {
  for (const std::string& line : split(text, '\n')) {
    if (line.empty()) continue;
    const std::vector<std::string> parts = split(line, '\t');
    verdicts.at(parse_number<size_t>(parts.at(0)).value()) = {
        .kind = parts.at(3),
        .reason = parts.at(4),
        .bucket = parse_number<size_t>(parts.at(1)).value(),
        .enlarged = parts.at(2) == "1"};
  }
}

/// Collective: the decoder's word on every pending record, each asked by one rank. None after a stop.
std::optional<std::vector<ClipVerdict>> probe(Recipe& recipe, const std::vector<Pending>& pending,
                                              const ClipRules& rules) {
  const auto ranks = static_cast<size_t>(recipe.session.size());
  Progress progress("probe", std::ssize(pending), "clips");
  std::string found;
  for (auto i = static_cast<size_t>(recipe.session.rank()); i < pending.size(); i += ranks) {
    if (recipe.stop_requested()) break;
    found += packed(i, look_at(pending[i].record, rules, ClipLook::probe));
    progress.advance(static_cast<int64_t>(std::min(ranks, pending.size() - i)));  // the others are as far
    recipe.progress(pending[i].record.id);
  }
  if (agree_on_stop(recipe.session.world(), recipe.stop_requested())) return {};
  std::vector<ClipVerdict> verdicts(pending.size());
  for (const std::string& text : recipe.session.world().gather_text(found)) unpack(text, verdicts);
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
                                    const std::filesystem::path& rejects_path) {
  const DataSection& d = recipe.config.data;
  const auto rules = std::make_shared<const ClipRules>(clip_rules(d));
  const RandomKey captions = recipe.key("captions");
  const uint64_t seed = recipe.config.run.seed;
  const ClipListing records(listing, *rules, subset_key(seed), d.count);
  records.require_clips();

  ClipSet set;
  std::vector<Pending> pending;
  std::string chosen;
  Rejects rejects(rejects_path, recipe.session.rank() == 0);
  const auto take = [&](ManifestRecord record, const ClipVerdict& verdict) {
    chosen += subset_line(record.id, record.cut);
    set.clips.push_back(verdict.certain ? encode_clip(record, rules, verdict, captions) : EncodeClip{});
    if (!verdict.certain) pending.push_back({set.clips.size() - 1, std::move(record)});
  };
  records.each(take, [&](const RejectedRecord& record) { rejects.add(record); });

  if (!pending.empty()) {
    const auto verdicts = probe(recipe, pending, *rules);
    if (!verdicts) return {};
    for (size_t i = 0; i < pending.size(); ++i) {
      const auto& [place, record] = pending[i];
      const ClipVerdict& verdict = (*verdicts)[i];
      // What cannot be read is left out of its shard by name: another time it might be there, and the other
      // clips keep their places.
      if (verdict.kept() || verdict.kind == kMissingFile || verdict.kind == kUnreadableFile)
        set.clips[place] = encode_clip(record, rules, verdict, captions);
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
