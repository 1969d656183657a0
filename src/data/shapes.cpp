#include "data/shapes.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr double kRadiusShare = 0.25;  // of the shorter side
constexpr double kSpeedShare = 0.02;   // of the shorter side, per frame
constexpr double kTravelShare = 0.36;  // of the shorter side at most, over a clip
constexpr double kPlaceShare = 0.03;   // jitter of the centre
constexpr double kSizeJitter = 0.05, kSpeedJitter = 0.1;

/// Signed distance (negative inside) from the outline, for an object of half extent r around the origin.
double signed_distance(int outline, double x, double y, double r) {
  switch (outline) {
    case 0:
      return std::hypot(x, y) - r;
    case 1:
      return std::max(std::abs(x), std::abs(y)) - 0.9 * r;
    case 2: {
      // Equilateral, point up, its box centred: top at -0.9 r, base at +0.9 r.
      constexpr double kHalfRoot3 = 0.8660254037844386;
      return std::max(kHalfRoot3 * std::abs(x) - 0.5 * (y + 0.9 * r), y - 0.9 * r);
    }
    default: {
      const double d = std::hypot(x, y);
      return std::max(d - r, 0.5 * r - d);
    }
  }
}

template <size_t N>
std::optional<int> index_of(const std::array<std::string_view, N>& words, std::string_view word) {
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end()) return std::nullopt;
  return static_cast<int>(found - words.begin());
}

/// What stands before `separator`, taken off `text`; nothing when there is no separator.
std::optional<std::string_view> take(std::string_view& text, std::string_view separator) {
  const auto at = text.find(separator);
  if (at == std::string_view::npos) return std::nullopt;
  const auto word = text.substr(0, at);
  text.remove_prefix(at + separator.size());
  return word;
}

std::vector<ShapeAttributes> list_combinations(bool held_out) {
  std::vector<ShapeAttributes> result;
  for (int c = 0; c < 6; ++c)
    for (int s = 0; s < 4; ++s)
      for (int d = 0; d < 4; ++d)
        for (int b = 0; b < 3; ++b)
          if (shapes_held_out({c, s, d, b}) == held_out) result.push_back({c, s, d, b});
  return result;
}

}  // namespace

std::string shapes_caption(const ShapeAttributes& a) {
  return fmt::format("a {} {} moving {} on a {} background", kShapeColours.at(static_cast<size_t>(a.colour)),
                     kShapeOutlines.at(static_cast<size_t>(a.outline)),
                     kShapeDirections.at(static_cast<size_t>(a.direction)),
                     kShapeBackgrounds.at(static_cast<size_t>(a.background)));
}

std::optional<ShapeAttributes> parse_shapes_caption(std::string_view caption) {
  if (!caption.starts_with("a ") || !caption.ends_with(" background")) return std::nullopt;
  caption.remove_prefix(2);
  const auto colour = take(caption, " ");
  const auto outline = take(caption, " moving ");
  const auto direction = take(caption, " on a ");
  const auto background = take(caption, " background");
  if (!colour || !outline || !direction || !background || !caption.empty()) return std::nullopt;
  const auto c = index_of(kShapeColours, *colour);
  const auto s = index_of(kShapeOutlines, *outline);
  const auto d = index_of(kShapeDirections, *direction);
  const auto b = index_of(kShapeBackgrounds, *background);
  if (!c || !s || !d || !b) return std::nullopt;
  return ShapeAttributes{*c, *s, *d, *b};
}

bool shapes_held_out(const ShapeAttributes& a) {
  // One in nine: for each sum of the first three that 3 divides, exactly one background.
  return (a.colour + a.outline + a.direction + 3 * a.background) % 9 == 0;
}

const std::vector<ShapeAttributes>& shapes_combinations(bool held_out) {
  static const std::vector<ShapeAttributes> seen = list_combinations(false), unseen = list_combinations(true);
  return held_out ? unseen : seen;
}

std::optional<ShapesSplit> parse_shapes_split(std::string_view name) {
  constexpr std::string_view kPrefix = "shapes:";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  if (name == "train") return ShapesSplit::train;
  if (name == "distill") return ShapesSplit::distill;
  if (name == "evaluation") return ShapesSplit::evaluation;
  return std::nullopt;
}

std::string to_string(ShapesSplit split) {
  switch (split) {
    case ShapesSplit::train:
      return "train";
    case ShapesSplit::distill:
      return "distill";
    default:
      return "evaluation";
  }
}

at::Tensor render_scene(const ShapeScene& scene, int64_t frames, int64_t height, int64_t width) {
  auto result = at::empty({frames, height, width, 3}, at::kByte);
  auto* out = result.data_ptr<uint8_t>();
  const double middle = static_cast<double>(frames - 1) / 2;
  for (int64_t t = 0; t < frames; ++t) {
    const double dt = static_cast<double>(t) - middle;
    const double cx = scene.x + scene.speed_x * dt, cy = scene.y + scene.speed_y * dt;
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        const double distance = signed_distance(scene.outline, static_cast<double>(column) + 0.5 - cx,
                                                static_cast<double>(row) + 0.5 - cy, scene.radius);
        const double cover =
            std::clamp(0.5 - distance, 0.0, 1.0);  // share of the pixel inside, to first order
        for (size_t c = 0; c < 3; ++c)
          *out++ = static_cast<uint8_t>(
              std::lround(scene.background[c] + cover * (scene.colour[c] - scene.background[c])));
      }
    }
  }
  return result;
}

ShapeScene shapes_scene(const ShapeAttributes& a, RandomKey key, int64_t frames, int64_t height,
                        int64_t width) {
  RandomStream random(key);
  const auto jitter = [&](double scale) { return scale * (2 * random.uniform() - 1); };
  const double side = static_cast<double>(std::min(height, width));
  ShapeScene scene;
  scene.outline = a.outline;
  scene.colour = kColourValues.at(static_cast<size_t>(a.colour));
  scene.background.fill(kBackgroundValues.at(static_cast<size_t>(a.background)));
  scene.radius = side * kRadiusShare * (1 + jitter(kSizeJitter));
  scene.x = static_cast<double>(width) / 2 + jitter(kPlaceShare * side);
  scene.y = static_cast<double>(height) / 2 + jitter(kPlaceShare * side);
  const double steps = static_cast<double>(std::max<int64_t>(frames - 1, 1));
  const double speed = std::min(kSpeedShare * side * (1 + jitter(kSpeedJitter)), kTravelShare * side / steps);
  constexpr std::array<int, 4> kX{-1, 1, 0, 0}, kY{0, 0, -1, 1};
  scene.speed_x = speed * kX.at(static_cast<size_t>(a.direction));
  scene.speed_y = speed * kY.at(static_cast<size_t>(a.direction));
  return scene;
}

int64_t shapes_split_size(ShapesSplit split) {
  return static_cast<int64_t>(shapes_combinations(split == ShapesSplit::evaluation).size());
}

ShapeAttributes shapes_attributes(ShapesSplit split, int64_t index) {
  const auto& list = shapes_combinations(split == ShapesSplit::evaluation);
  // Steps coprime with 256 and 32: every run of that many clips holds every combination once.
  const int64_t step = split == ShapesSplit::train ? 149 : split == ShapesSplit::distill ? 101 : 13;
  return list[static_cast<size_t>(index * step % static_cast<int64_t>(list.size()))];
}

ShapesClip shapes_clip(ShapesSplit split, int64_t index, uint64_t seed, int64_t frames, int64_t height,
                       int64_t width) {
  if (frames < 1 || frames % 4 != 1)
    fail_usage("a shapes clip of {} frames (the VAE takes 4k+1): ask for {}", frames,
               std::max<int64_t>(frames - 1, 0) / 4 * 4 + 1);
  if (height < 32 || width < 32)
    fail_usage("a shapes clip of {} x {} (outlines cannot be told apart): ask for at least 32 x 32", height,
               width);
  if (index < 0) fail_usage("shapes clip {} does not exist: count from 0", index);
  const auto attributes = shapes_attributes(split, index);
  const auto key =
      RandomKey{seed, 0}.with("shapes").with(to_string(split)).with(static_cast<uint64_t>(index));
  return {attributes, shapes_caption(attributes),
          render_scene(shapes_scene(attributes, key, frames, height, width), frames, height, width)};
}

}  // namespace surgery
