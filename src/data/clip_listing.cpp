#include "data/clip_listing.h"

#include <algorithm>

#include "base/errors.h"

namespace surgery {

void DropTally::add(const RejectedRecord& record) {
  Entry& entry = kinds_[record.kind];
  ++entry.count;
  if (entry.examples.size() < kExamples) entry.examples.push_back(record);
}

int64_t DropTally::total() const {
  int64_t sum = 0;
  for (const auto& [kind, entry] : kinds_) sum += entry.count;
  return sum;
}

std::string DropTally::text() const {
  std::string text;
  for (const auto& [kind, entry] : kinds_)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", entry.count, kind);
  return text;
}

ClipListing::Place ClipListing::place_of(const ManifestRecord& record, int64_t number) const {
  const auto begin = static_cast<uint64_t>(record.cut ? record.cut->begin : 0);
  const auto words = philox(key_.with(record.id).with(begin), 0);
  return {uint64_t{words[1]} << 32 | words[0], number};
}

ClipListing::ClipListing(std::filesystem::path listing, ClipRules rules, RandomKey key, int64_t count)
    : path_(std::move(listing)), rules_(std::move(rules)), key_(key), limited_(count > 0) {
  int64_t number = 0;
  const auto accept = [&](const ManifestRecord& record) {
    ++records_;
    const int64_t here = number++;
    const ClipVerdict verdict = judge(annotated_source(record), rules_);
    if (!verdict.kept()) return drops_.add({record.id, verdict.reason, verdict.kind});
    ++usable_;
    if (!limited_) return;
    const Place place = place_of(record, here);
    if (std::ssize(least_) == count) {
      if (least_.front() < place) return;
      std::pop_heap(least_.begin(), least_.end());
      least_.pop_back();
    }
    least_.push_back(place);
    std::push_heap(least_.begin(), least_.end());
  };
  stream_manifest(path_, accept, [&](const RejectedRecord& record) {
    ++records_;
    drops_.add(record);
  });
}

void ClipListing::require_clips() const {
  if (usable_ > 0) return;
  fail_without_clips(
      path_, records_,
      drops_.kinds().empty() ? RejectedRecord{} : drops_.kinds().begin()->second.examples.front());
}

void ClipListing::each(const std::function<void(ManifestRecord, const ClipVerdict&)>& take,
                       const std::function<void(const RejectedRecord&)>& drop) const {
  int64_t number = 0;
  const auto accept = [&](ManifestRecord record) {
    const int64_t here = number++;
    const ClipVerdict verdict = judge(annotated_source(record), rules_);
    if (!verdict.kept()) return drop({record.id, verdict.reason, verdict.kind});
    if (!limited_ || place_of(record, here) <= least_.front()) take(std::move(record), verdict);
  };
  stream_manifest(path_, accept, drop);
}

ClipSpec clip_spec(const ManifestRecord& record, const ClipRules& rules, const ClipVerdict& verdict) {
  const ClipShape& shape = rules.buckets[verdict.bucket];
  ClipSpec spec;
  spec.frames = shape.frames;
  spec.height = shape.height;
  spec.width = shape.width;
  spec.fps = rules.fps;
  spec.small_source = verdict.enlarged ? SmallSource::upscale : SmallSource::refuse;
  return record.clip_spec(spec);
}

ClipVerdict look_at(const ManifestRecord& record, const ClipRules& rules, ClipLook look,
                    VideoProbes* probes) {
  const std::filesystem::path file = find_video(record.path);
  std::error_code code;
  if (!std::filesystem::exists(file, code))
    return {.kind = kMissingFile,
            .reason = fmt::format("{}: no such video file: check the annotation", file.string())};
  try {
    ClipVerdict verdict = judge(decoded_source(probes != nullptr ? probes->probe(file) : probe_video(file),
                                               record.cut, record.crop, record.aesthetic),
                                rules);
    verdict.certain = true;  // there is nobody else to ask
    if (verdict.kept() && look == ClipLook::decode) load_clip(file, clip_spec(record, rules, verdict));
    return verdict;
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    return {.kind = kUnreadableFile, .reason = error.what()};
  }
}

}  // namespace surgery
