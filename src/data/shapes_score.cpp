#include "data/shapes_score.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr int64_t kBorder = 4;    // pixels of the frame's rim that are taken for background
constexpr double kContrast = 50;  // of 255: least difference of an object from the background, any channel
constexpr double kLeastArea = 0.02, kMostArea = 0.6;  // of the frame
constexpr int64_t kTemplate = 32;                     // side of a normalised mask
constexpr double kLeastOverlap = 0.55;                // below it no outline is clear
constexpr double kLeastTravel = 0.04;  // of the shorter side, between a clip's first and last sighting

struct Sighting {
  int64_t frame = 0;
  double x = 0, y = 0;                     // centroid
  int64_t x0 = 0, x1 = 0, y0 = 0, y1 = 0;  // box, half open
  std::vector<uint8_t> mask;               // [height, width] of the whole frame, 1 inside
};

/// Keeps the largest 4-connected area of `mask` and describes it.
Sighting largest_area(const std::vector<uint8_t>& mask, int64_t height, int64_t width) {
  std::vector<int32_t> label(mask.size(), 0);
  std::vector<int64_t> stack, best;
  int32_t count = 0;
  for (int64_t start = 0; start < height * width; ++start) {
    if (!mask[static_cast<size_t>(start)] || label[static_cast<size_t>(start)]) continue;
    ++count;
    std::vector<int64_t> area;
    stack.assign(1, start);
    label[static_cast<size_t>(start)] = count;
    while (!stack.empty()) {
      const int64_t at = stack.back();
      stack.pop_back();
      area.push_back(at);
      const int64_t row = at / width, column = at % width;
      const auto visit = [&](bool inside, int64_t next) {
        if (!inside || !mask[static_cast<size_t>(next)] || label[static_cast<size_t>(next)]) return;
        label[static_cast<size_t>(next)] = count;
        stack.push_back(next);
      };
      visit(row > 0, at - width);
      visit(row + 1 < height, at + width);
      visit(column > 0, at - 1);
      visit(column + 1 < width, at + 1);
    }
    if (area.size() > best.size()) best.swap(area);
  }
  Sighting seen;
  seen.mask.assign(mask.size(), 0);
  seen.x0 = width, seen.y0 = height;
  for (const int64_t at : best) {
    const int64_t row = at / width, column = at % width;
    seen.mask[static_cast<size_t>(at)] = 1;
    seen.x += static_cast<double>(column), seen.y += static_cast<double>(row);
    seen.x0 = std::min(seen.x0, column), seen.x1 = std::max(seen.x1, column + 1);
    seen.y0 = std::min(seen.y0, row), seen.y1 = std::max(seen.y1, row + 1);
  }
  const auto size = static_cast<double>(best.size());
  const bool plausible = size >= kLeastArea * static_cast<double>(height * width) &&
                         size <= kMostArea * static_cast<double>(height * width);
  seen.frame = plausible ? 0 : -1;
  seen.x /= std::max(size, 1.0), seen.y /= std::max(size, 1.0);
  return seen;
}

/// Largest difference of any channel from the background, a 3 x 3 mean first so that single pixels do not
/// count.
at::Tensor object_masks(const at::Tensor& video, const at::Tensor& background) {
  const auto channels = video.permute({0, 3, 1, 2});
  const auto smooth = at::avg_pool2d(channels, {3, 3}, {1, 1}, {1, 1}, false, /*count_include_pad=*/false);
  return std::get<0>((smooth - background.view({1, 3, 1, 1})).abs().max(1)) > kContrast;
}

std::optional<int> background_name(const std::array<double, 3>& rgb) {
  const auto [low, high] = std::minmax({rgb[0], rgb[1], rgb[2]});
  if (high - low > 48) return std::nullopt;
  const double mean = (rgb[0] + rgb[1] + rgb[2]) / 3;
  if (mean < 70) return 0;
  if (mean > 187) return 1;
  return mean > 80 && mean < 176 ? std::optional<int>(2) : std::nullopt;
}

/// Degrees, or nothing for a colour too pale to have a hue.
std::optional<double> hue(const std::array<double, 3>& rgb) {
  const auto [low, high] = std::minmax({rgb[0], rgb[1], rgb[2]});
  if (high < 60 || high - low < 0.3 * high) return std::nullopt;
  const double x = rgb[0] - 0.5 * (rgb[1] + rgb[2]);
  const double y = 0.5 * std::numbers::sqrt3 * (rgb[1] - rgb[2]);
  const double degrees = std::atan2(y, x) * 180 / std::numbers::pi;
  return degrees < 0 ? degrees + 360 : degrees;
}

std::optional<int> colour_name(const std::array<double, 3>& rgb) {
  const auto seen = hue(rgb);
  if (!seen) return std::nullopt;
  std::optional<int> best;
  double nearest = 30;  // half the distance between neighbouring hues
  for (size_t i = 0; i < kColourValues.size(); ++i) {
    const double apart = std::abs(*seen - *hue(kColourValues[i]));
    const double distance = std::min(apart, 360 - apart);
    if (distance < nearest) nearest = distance, best = static_cast<int>(i);
  }
  return best;
}

using Mask = std::array<uint8_t, kTemplate * kTemplate>;

/// The area inside the box, sampled on a square grid.
Mask normalised(const Sighting& seen, int64_t width) {
  Mask result{};
  for (int64_t i = 0; i < kTemplate; ++i) {
    for (int64_t j = 0; j < kTemplate; ++j) {
      const int64_t row = seen.y0 + (2 * i + 1) * (seen.y1 - seen.y0) / (2 * kTemplate);
      const int64_t column = seen.x0 + (2 * j + 1) * (seen.x1 - seen.x0) / (2 * kTemplate);
      result[static_cast<size_t>(i * kTemplate + j)] = seen.mask[static_cast<size_t>(row * width + column)];
    }
  }
  return result;
}

/// The four outlines as the renderer draws them, seen through the same mask and box.
const std::array<Mask, 4>& templates() {
  static const std::array<Mask, 4> list = [] {
    std::array<Mask, 4> result;
    for (int outline = 0; outline < 4; ++outline) {
      ShapeScene scene;
      scene.outline = outline, scene.colour = {255, 255, 255}, scene.radius = 48, scene.x = 64, scene.y = 64;
      const auto frame =
          render_scene(scene, 1, 128, 128).select(3, 0).select(0, 0).gt(127).to(at::kByte).contiguous();
      const auto* data = frame.data_ptr<uint8_t>();
      result[static_cast<size_t>(outline)] =
          normalised(largest_area({data, data + frame.numel()}, 128, 128), 128);
    }
    return result;
  }();
  return list;
}

double overlap(const Mask& a, const Mask& b) {
  int both = 0, either = 0;
  for (size_t i = 0; i < a.size(); ++i) both += a[i] & b[i], either += a[i] | b[i];
  return either == 0 ? 0 : static_cast<double>(both) / either;
}

void read_outline(const std::vector<Sighting>& seen, int64_t width, ShapesReading& reading) {
  std::array<double, 4> sums{};
  for (const auto& s : seen) {
    const auto mask = normalised(s, width);
    for (size_t i = 0; i < 4; ++i) sums[i] += overlap(mask, templates()[i]);
  }
  const auto best = std::max_element(sums.begin(), sums.end());
  reading.overlap = *best / static_cast<double>(seen.size());
  if (reading.overlap >= kLeastOverlap) reading.outline = static_cast<int>(best - sums.begin());
}

/// Slope of the centroid over the frames by least squares, as travel over the whole span.
std::optional<int> direction_of(const std::vector<Sighting>& seen, double side) {
  if (seen.size() < 2) return std::nullopt;
  double mt = 0, mx = 0, my = 0, tt = 0, tx = 0, ty = 0;
  for (const auto& s : seen) mt += static_cast<double>(s.frame), mx += s.x, my += s.y;
  const auto n = static_cast<double>(seen.size());
  mt /= n, mx /= n, my /= n;
  for (const auto& s : seen) {
    const double dt = static_cast<double>(s.frame) - mt;
    tt += dt * dt, tx += dt * (s.x - mx), ty += dt * (s.y - my);
  }
  const double span = static_cast<double>(seen.back().frame - seen.front().frame);
  const double x = tx / tt * span, y = ty / tt * span;
  const double larger = std::max(std::abs(x), std::abs(y)), smaller = std::min(std::abs(x), std::abs(y));
  if (larger < kLeastTravel * side || larger < 1.5 * smaller) return std::nullopt;
  return std::abs(x) > std::abs(y) ? (x < 0 ? 0 : 1) : (y < 0 ? 2 : 3);
}

/// Median over the object's inside (two pixels from its rim where it is that thick), all sightings together.
std::array<double, 3> object_colour(const at::Tensor& video, const std::vector<Sighting>& seen,
                                    int64_t height, int64_t width) {
  std::vector<at::Tensor> pixels;
  for (const auto& s : seen) {
    const auto mask =
        at::from_blob(const_cast<uint8_t*>(s.mask.data()), {1, 1, height, width}, at::kByte).to(at::kFloat);
    auto inside = at::avg_pool2d(mask, {5, 5}, {1, 1}, {2, 2}) > 0.99;
    if (!inside.any().item<bool>()) inside = mask > 0.5;
    pixels.push_back(video[s.frame].index({inside.view({height, width})}));
  }
  const auto median = std::get<0>(at::cat(pixels, 0).median(0));
  return {median[0].item<double>(), median[1].item<double>(), median[2].item<double>()};
}

}  // namespace

ShapesReading read_shapes(const at::Tensor& frames) {
  VALIDATE(
      frames.dim() == 4 && frames.size(3) == 3 && frames.scalar_type() == at::kByte && frames.size(0) > 0 &&
          frames.size(1) > 2 * kBorder && frames.size(2) > 2 * kBorder,
      "shapes are read from uint8 frames [T, H, W, 3] of more than {} pixels a side: convert the clip first",
      2 * kBorder);
  const auto video = frames.cpu().to(at::kFloat);
  const int64_t height = video.size(1), width = video.size(2);
  const auto border = at::cat({video.narrow(1, 0, kBorder).reshape({-1, 3}),
                               video.narrow(1, height - kBorder, kBorder).reshape({-1, 3}),
                               video.narrow(2, 0, kBorder).reshape({-1, 3}),
                               video.narrow(2, width - kBorder, kBorder).reshape({-1, 3})});
  const auto background = std::get<0>(border.median(0));

  ShapesReading reading;
  const auto masks = object_masks(video, background).to(at::kByte).contiguous();
  std::vector<Sighting> seen;
  for (int64_t t = 0; t < video.size(0); ++t) {
    const auto* data = masks.data_ptr<uint8_t>() + t * height * width;
    auto sighting = largest_area({data, data + height * width}, height, width);
    if (sighting.frame < 0) continue;
    sighting.frame = t;
    seen.push_back(std::move(sighting));
  }
  // An empty clip has no attributes: not even its background counts.
  if (2 * static_cast<int64_t>(seen.size()) < video.size(0)) return reading;
  reading.background = background_name(
      {background[0].item<double>(), background[1].item<double>(), background[2].item<double>()});
  reading.colour = colour_name(object_colour(video, seen, height, width));
  read_outline(seen, width, reading);
  reading.direction = direction_of(seen, static_cast<double>(std::min(height, width)));
  return reading;
}

void ShapesScore::add(const ShapeAttributes& asked, const ShapesReading& reading) {
  const std::array<bool, 4> hit{reading.background == asked.background, reading.colour == asked.colour,
                                reading.outline == asked.outline, reading.direction == asked.direction};
  ++clips;
  for (size_t i = 0; i < 4; ++i) right[i] += hit[i];
  all_four += hit[0] && hit[1] && hit[2] && hit[3];
}

double ShapesScore::attribute_share() const {
  return clips == 0 ? 0
                    : static_cast<double>(right[0] + right[1] + right[2] + right[3]) /
                          (4.0 * static_cast<double>(clips));
}

double ShapesScore::attribute_share(size_t attribute) const {
  return clips == 0 ? 0 : static_cast<double>(right[attribute]) / static_cast<double>(clips);
}

double ShapesScore::clip_share() const {
  return clips == 0 ? 0 : static_cast<double>(all_four) / static_cast<double>(clips);
}

Proportion ShapesScore::clip_interval() const {
  return wilson_interval(all_four, clips);
}

std::string ShapesScore::summary() const {
  const auto interval = clip_interval();
  const auto percent = [&](int64_t count) {
    return clips == 0 ? 0.0 : 100.0 * static_cast<double>(count) / static_cast<double>(clips);
  };
  return fmt::format(
      "all four {:.1f} % of {} clips (95 %: {:.1f} to {:.1f}), attributes {:.1f} %: background {:.1f}, "
      "colour {:.1f}, "
      "outline {:.1f}, direction {:.1f}",
      100 * clip_share(), clips, 100 * interval.low, 100 * interval.high, 100 * attribute_share(),
      percent(right[0]), percent(right[1]), percent(right[2]), percent(right[3]));
}

}  // namespace surgery
