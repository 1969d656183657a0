#pragma once
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/manifest.h"

namespace surgery {

/// A bucket: the shape that clips are brought to.
struct ClipShape {
  int64_t frames = 0, height = 0, width = 0;
  auto operator<=>(const ClipShape&) const = default;
};
std::string to_string(const ClipShape& shape);  ///< "81x480x832"
/// "FRAMESxHEIGHTxWIDTH"; none where it is not three positive numbers.
std::optional<ClipShape> parse_clip_shape(const std::string& text);

/// Which clips of a set are used, and at which shape.
struct ClipRules {
  std::vector<ClipShape> buckets;  ///< at least one
  double fps = 16;                 ///< of the clips
  bool may_enlarge = false;        ///< every clip may be enlarged, not only one that no bucket fits
  int64_t least_height = 0, least_width = 0;  ///< pixels of the source; 0 = any, here and below
  double least_seconds = 0, most_seconds = 0;
  double least_aesthetic = 0;
  double most_aspect = 0;  ///< height/width within [target / most_aspect, target * most_aspect]

  bool filters() const;      ///< whether anything but the buckets decides
  std::string text() const;  ///< the filters, for a fingerprint; empty without any
};

/// What is known of a source before it is decoded; 0 where nothing is.
struct ClipSource {
  int64_t height = 0, width = 0;  ///< pixels as displayed, of the crop where the record has one
  double pixel_aspect = 1;
  double seconds = 0;  ///< of the cut where the record has one
  double slack = 0;    ///< seconds by which that may be wrong: annotated durations and rates are rounded
  std::optional<double> aesthetic;
};
/// By the annotation's word. With a cut, `num_frames` and `duration` do not count (annotators mean the source
/// or the cut by them).
ClipSource annotated_source(const ManifestRecord& record);
/// By the decoder's word; of the annotation only cut, crop and score.
ClipSource decoded_source(const VideoInfo& info, const std::optional<FrameRange>& cut,
                          const std::optional<Box>& crop, std::optional<double> aesthetic);

struct ClipVerdict {
  std::string kind = {}, reason = {};  ///< why the clip is dropped; empty where it is kept
  size_t bucket = 0;
  bool enlarged = false;  ///< the bucket has more pixels than the source, or the source's are not known
  bool certain = true;  ///< all that the rules ask about was known, and exactly enough; else only the decoder
                        ///< can tell
  bool kept() const { return kind.empty(); }
};

/// The filters in turn, then the bucket. Of the buckets that the clip is long enough for: those it need not
/// be enlarged for, then the nearest aspect ratio (in its logarithm), then the most pixels, then the most
/// frames, then the first. What is not known, or not exactly enough, drops no clip, but for an aesthetic
/// score that is asked for: nobody could find it later.
ClipVerdict judge(const ClipSource& source, const ClipRules& rules);

}  // namespace surgery
