#include "data/clip_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/text.h"

namespace surgery {

namespace {

constexpr double kDurationSlack = 0.1;  // seconds: annotations round
constexpr double kRateSlack = 0.002;    // 30 frames a second may be 29.97

/// The last frame of the clip is on screen at (frames - 1) / fps; a source that ends by then is too short.
bool long_enough(double seconds, int64_t frames, double fps) {
  constexpr double kRounding = 1e-6;
  return seconds <= 0 || seconds > static_cast<double>(frames - 1) / fps + kRounding;
}

double log_aspect(double height, double width) {
  return std::log(height / width);
}

/// How far the source's aspect ratio is from the bucket's, as a factor's logarithm.
double aspect_distance(const ClipSource& source, const ClipShape& bucket) {
  const double wide = static_cast<double>(source.width) * source.pixel_aspect;
  const double distance =
      std::abs(log_aspect(static_cast<double>(source.height), wide) -
               log_aspect(static_cast<double>(bucket.height), static_cast<double>(bucket.width)));
  return std::round(distance * 1e9) / 1e9;  // equal ratios are equal
}

bool needs_enlarging(const ClipSource& source, const ClipShape& bucket) {
  const Box crop =
      covering_crop({0, source.width, 0, source.height}, source.pixel_aspect, bucket.width, bucket.height);
  return crop.width() < bucket.width || crop.height() < bucket.height;
}

/// Less is better.
auto rank_of(const ClipSource& source, const ClipShape& bucket) {
  const bool sized = source.height > 0 && source.width > 0;
  return std::tuple(sized && needs_enlarging(source, bucket), sized ? aspect_distance(source, bucket) : 0.0,
                    -bucket.height * bucket.width, -bucket.frames);
}

ClipVerdict dropped(const char* kind, const std::string& reason) {
  return {.kind = kind, .reason = fmt::format("{}: {}", kind, reason)};
}

ClipVerdict filtered(const ClipSource& source, const ClipRules& rules) {
  if (rules.least_aesthetic > 0) {
    if (!source.aesthetic) return dropped("no aesthetic score", "data.least_aesthetic asks for one");
    if (*source.aesthetic < rules.least_aesthetic)
      return dropped("aesthetic score", fmt::format("{} is below {} (data.least_aesthetic)",
                                                    *source.aesthetic, rules.least_aesthetic));
  }
  const bool sized = source.height > 0 && source.width > 0;
  if (sized && (source.height < rules.least_height || source.width < rules.least_width))
    return dropped("too small",
                   fmt::format("{}x{} (height x width), at least {}x{} are asked for "
                               "(data.least_height, data.least_width)",
                               source.height, source.width, rules.least_height, rules.least_width));
  if (source.seconds > 0 && source.seconds + source.slack < rules.least_seconds)
    return dropped("too short", fmt::format("{:.3f} s, at least {} are asked for (data.least_seconds)",
                                            source.seconds, rules.least_seconds));
  if (source.seconds > 0 && rules.most_seconds > 0 && source.seconds - source.slack > rules.most_seconds)
    return dropped("too long", fmt::format("{:.3f} s, at most {} are asked for (data.most_seconds)",
                                           source.seconds, rules.most_seconds));
  return {};
}

bool all_known(const ClipSource& source, const ClipRules& rules) {
  const ClipShape& first = rules.buckets.front();
  bool sizes = rules.least_height > 0 || rules.least_width > 0 || rules.most_aspect > 0;
  bool lengths = rules.least_seconds > 0 || rules.most_seconds > 0;
  for (const ClipShape& bucket : rules.buckets) {
    sizes = sizes || bucket.height != first.height || bucket.width != first.width;
    lengths = lengths || bucket.frames != first.frames;
  }
  return (!sizes || (source.height > 0 && source.width > 0)) && (!lengths || source.seconds > 0);
}

/// Whether a length that is a little wrong would be judged alike.
bool clear_of_edges(const ClipSource& source, const ClipRules& rules) {
  if (source.seconds <= 0 || source.slack <= 0) return true;
  const auto near = [&](double edge) { return edge > 0 && std::abs(source.seconds - edge) <= source.slack; };
  return !near(rules.least_seconds) && !near(rules.most_seconds) &&
         std::ranges::none_of(rules.buckets, [&](const ClipShape& bucket) {
           return near(static_cast<double>(bucket.frames - 1) / rules.fps);
         });
}

}  // namespace

std::string to_string(const ClipShape& shape) {
  return fmt::format("{}x{}x{}", shape.frames, shape.height, shape.width);
}

std::optional<ClipShape> parse_clip_shape(const std::string& text) {
  const std::vector<std::string> parts = split(text, 'x');
  if (parts.size() != 3) return {};
  std::array<int64_t, 3> numbers{};
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = parse_number<int64_t>(parts[i]).value_or(0);
    if (numbers[i] < 1) return {};
  }
  return ClipShape{numbers[0], numbers[1], numbers[2]};
}

bool ClipRules::filters() const {
  return least_height > 0 || least_width > 0 || least_seconds > 0 || most_seconds > 0 ||
         least_aesthetic > 0 || most_aspect > 0;
}

std::string ClipRules::text() const {
  if (!filters()) return "";
  return fmt::format("size {}x{}, seconds {}..{}, aesthetic {}, aspect {}", least_height, least_width,
                     least_seconds, most_seconds, least_aesthetic, most_aspect);
}

ClipSource annotated_source(const ManifestRecord& record) {
  ClipSource source{.height = record.height, .width = record.width, .aesthetic = record.aesthetic};
  if (record.crop) source.height = record.crop->height(), source.width = record.crop->width();
  const auto counted = [&](int64_t frames) {
    source.seconds = static_cast<double>(frames) / record.fps;
    source.slack = kRateSlack * source.seconds;
  };
  if (record.cut && record.fps > 0)
    counted(record.cut->end - record.cut->begin);
  else if (!record.cut && record.frames > 0 && record.fps > 0)
    counted(record.frames);
  else if (!record.cut && record.duration_seconds > 0)
    source.seconds = record.duration_seconds, source.slack = kDurationSlack;
  return source;
}

ClipSource decoded_source(const VideoInfo& info, const std::optional<FrameRange>& cut,
                          const std::optional<Box>& crop, std::optional<double> aesthetic) {
  ClipSource source{.height = info.height,
                    .width = info.width,
                    .pixel_aspect = info.pixel_aspect,
                    .seconds = info.duration_seconds,
                    .aesthetic = aesthetic};
  if (info.rotation % 180 != 0) source.pixel_aspect = 1 / info.pixel_aspect;
  if (source.seconds <= 0 && info.fps > 0) source.seconds = static_cast<double>(info.frames) / info.fps;
  if (crop) source.height = crop->height(), source.width = crop->width();
  if (cut && info.fps > 0) {
    double end = source.seconds;
    if (cut->end >= 0) {
      const double asked = static_cast<double>(cut->end) / info.fps;
      end = end > 0 ? std::min(end, asked) : asked;
    }
    // A cut that begins behind the end leaves nothing, which is not the same as "not known".
    if (end > 0) source.seconds = std::max(1e-9, end - static_cast<double>(cut->begin) / info.fps);
  }
  return source;
}

ClipVerdict judge(const ClipSource& source, const ClipRules& rules) {
  ClipVerdict verdict = filtered(source, rules);
  if (!verdict.kept()) return verdict;
  const ClipShape* best = nullptr;
  int64_t fewest = rules.buckets.front().frames;
  for (const ClipShape& bucket : rules.buckets) {
    fewest = std::min(fewest, bucket.frames);
    if (!long_enough(source.seconds + source.slack, bucket.frames, rules.fps)) continue;
    if (!best || rank_of(source, bucket) < rank_of(source, *best)) best = &bucket;
  }
  if (!best)
    return dropped("too short", fmt::format("{:.3f} s, {} frames at {} a second last longer", source.seconds,
                                            fewest, rules.fps));
  const bool sized = source.height > 0 && source.width > 0;
  if (sized && rules.most_aspect > 0 && aspect_distance(source, *best) > std::log(rules.most_aspect) + 1e-8)
    return dropped("aspect ratio",
                   fmt::format("{}x{} (height x width) is more than {} times off {} (data.most_aspect)",
                               source.height, source.width, rules.most_aspect, to_string(*best)));
  verdict.bucket = static_cast<size_t>(best - rules.buckets.data());
  verdict.enlarged = rules.may_enlarge || !sized || needs_enlarging(source, *best);
  verdict.certain = all_known(source, rules) && clear_of_edges(source, rules);
  return verdict;
}

}  // namespace surgery
