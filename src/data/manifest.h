#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "data/video.h"

namespace surgery {

/// One captioned clip of an annotation. Numbers are as annotated, 0 where absent; the decoder's word counts.
struct ManifestRecord {
  std::filesystem::path path;  ///< of the file, its root joined
  std::string id;              ///< the annotation's own path
  std::vector<std::string> captions;
  double fps = 0, duration_seconds = 0;
  int64_t frames = 0, height = 0, width = 0;
  std::optional<FrameRange> cut;
  std::optional<Box> crop;
  std::optional<double> aesthetic;

  /// One of the captions, the same for the same key and record.
  const std::string& caption(RandomKey key) const;
  /// `base` restricted to this record's cut and crop.
  ClipSpec clip_spec(ClipSpec base) const;
};

struct RejectedRecord {
  std::string where;  ///< file and record number, the record's path where it has one
  std::string reason;
  std::string kind = "bad record";  ///< what reasons are counted by
};

/// A line of a rejects file, `where<TAB>reason`, with its end.
std::string reject_line(const RejectedRecord& record);

struct Manifest {
  std::vector<ManifestRecord> records;
  std::vector<RejectedRecord> rejected;
};

/// Reads Open-Sora Plan's listing: lines `ROOT,ANNOTATION`, blank lines ignored; both relative to the
/// listing's folder, an empty ROOT being that folder. A .json is taken as one annotation whose root is its
/// folder. Damaged files throw Error{data}; a bad record is named in `rejected` and left out. Without one
/// usable record: Error{data} naming the first reason.
Manifest read_manifest(const std::filesystem::path& listing);

/// The same, record by record in the listing's order, so that a set of any size can be gone through; without
/// a usable record it is no error.
void stream_manifest(const std::filesystem::path& listing, const std::function<void(ManifestRecord)>& accept,
                     const std::function<void(RejectedRecord)>& reject);
/// What a set without one usable clip fails with, Error{data}: how many were left out and the first of them.
[[noreturn]] void fail_without_clips(const std::filesystem::path& listing, int64_t left_out,
                                     const RejectedRecord& first);

/// Streams one annotation: a JSON array of objects with `path` (also video, video_path, file_name) and `cap`
/// (also caption, prompt, text; a string or a list of them), and optionally `resolution`, `fps`,
/// `num_frames`, `duration`, `cut` [start, end), `frame_idx` "start:end", `crop` [x0, x1, y0, y1],
/// `aesthetic` or `aes`. Other keys are ignored. Nothing but the record being read is in memory. Throws
/// Error{data} for what is not such a file.
void read_annotation(const std::filesystem::path& annotation, const std::filesystem::path& root,
                     const std::function<void(ManifestRecord)>& accept,
                     const std::function<void(RejectedRecord)>& reject);

/// The file itself, or its published sibling: `..._resize1080p.mp4` and `..._resize_1080p.mp4` name the same
/// clips.
std::filesystem::path find_video(const std::filesystem::path& path);

}  // namespace surgery
