#pragma once
#include <array>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/clip_rules.h"
#include "data/video_probes.h"

namespace surgery {

/// How many clips were dropped, by kind, with the first few of each.
class DropTally {
 public:
  static constexpr size_t kExamples = 3;
  struct Entry {
    int64_t count = 0;
    std::vector<RejectedRecord> examples;
  };
  void add(const RejectedRecord& record);
  int64_t total() const;
  const std::map<std::string, Entry>& kinds() const { return kinds_; }
  std::string text() const;  ///< "12 too small, 3 too short"; empty without any

 private:
  std::map<std::string, Entry> kinds_;
};

/// A set of captioned videos that may be too large for memory: the filters and the choice of `count` clips by
/// what the annotations say, nothing opened. Both passes stream the annotations; between them 16 bytes a
/// chosen clip are kept, none where all are taken.
///
/// The choice ("least-key-1"): every usable record has a key, the first 64 bits of Philox of the seed at its
/// path and the first frame of its cut; the `count` least keys are taken, in the listing's order. So a
/// smaller choice is part of a larger one, and a record's chance depends neither on its place nor on the
/// others.
class ClipListing {
 public:
  /// First pass. Error{io}, Error{data} as read_manifest; a set without a usable record is no error here.
  /// count 0 = all.
  ClipListing(std::filesystem::path listing, ClipRules rules, RandomKey key, int64_t count);

  int64_t records() const { return records_; }  ///< in the annotations, bad ones too
  int64_t usable() const { return usable_; }    ///< that the annotations' own words leave
  int64_t taken() const { return limited_ ? std::ssize(least_) : usable_; }
  const DropTally& drops() const { return drops_; }
  const ClipRules& rules() const { return rules_; }
  const std::filesystem::path& path() const { return path_; }
  /// Error{data} where no record is usable.
  void require_clips() const;

  /// Second pass, in the listing's order: the records that are taken with their verdicts, and the bad and
  /// dropped ones. A usable record that is not taken goes to neither.
  void each(const std::function<void(ManifestRecord, const ClipVerdict&)>& take,
            const std::function<void(const RejectedRecord&)>& drop) const;

  static constexpr const char* kRule = "least-key-1";

 private:
  using Place = std::pair<uint64_t, int64_t>;  // key, number among the readable records
  Place place_of(const ManifestRecord& record, int64_t number) const;

  std::filesystem::path path_;
  ClipRules rules_;
  RandomKey key_;
  bool limited_ = false;
  std::vector<Place> least_;  // a heap, the greatest first
  int64_t records_ = 0, usable_ = 0;
  DropTally drops_;
};

/// Kinds of verdicts on files that could not be looked at.
inline constexpr const char *kMissingFile = "missing file", *kUnreadableFile = "unreadable file";

enum class ClipLook { probe, decode };
/// Opens a record's file and judges it by the decoder's word; with `decode` all frames of the clip are read,
/// too. A file that is missing or damaged is dropped for that. Error{io} where this machine fails to read it,
/// Error{usage} without libav. With `probes`, a file that they know and that has not changed is not opened
/// again for its probe, and what is found is added.
ClipVerdict look_at(const ManifestRecord& record, const ClipRules& rules, ClipLook look,
                    VideoProbes* probes = nullptr);

/// `base` at the verdict's shape, restricted to the record's cut and crop.
ClipSpec clip_spec(const ManifestRecord& record, const ClipRules& rules, const ClipVerdict& verdict);

}  // namespace surgery
