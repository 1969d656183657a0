#pragma once
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "base/tensor.h"

namespace surgery {

// Shapes: procedural captioned clips, small enough a world that what a model made of a caption can be
// measured. "a red circle moving left on a black background": 6 colours x 4 shapes x 4 directions x 3
// backgrounds.

inline constexpr std::array<std::string_view, 6> kShapeColours{"red",    "green",  "blue",
                                                               "yellow", "purple", "cyan"};
inline constexpr std::array<std::string_view, 4> kShapeOutlines{"circle", "square", "triangle", "ring"};
inline constexpr std::array<std::string_view, 4> kShapeDirections{"left", "right", "up", "down"};
inline constexpr std::array<std::string_view, 3> kShapeBackgrounds{"black", "white", "gray"};
/// 0..255 per channel, in the order of the names.
inline constexpr std::array<std::array<double, 3>, 6> kColourValues{
    {{230, 30, 30}, {30, 180, 40}, {40, 60, 235}, {235, 220, 30}, {160, 40, 200}, {30, 210, 220}}};
inline constexpr std::array<double, 3> kBackgroundValues{10, 245, 128};

/// Indices into the four lists above.
struct ShapeAttributes {
  int colour = 0, outline = 0, direction = 0, background = 0;
  bool operator==(const ShapeAttributes&) const = default;
};

std::string shapes_caption(const ShapeAttributes& attributes);
/// The attributes a caption names; nothing when it is not exactly such a caption.
std::optional<ShapeAttributes> parse_shapes_caption(std::string_view caption);

/// True for the 32 combinations that are never trained on. Every single attribute value, and every pair of
/// colour and outline, also occurs among the other 256.
bool shapes_held_out(const ShapeAttributes& attributes);
/// All 256 seen, or all 32 unseen, combinations in a fixed order.
const std::vector<ShapeAttributes>& shapes_combinations(bool held_out);

/// train and distill hold seen combinations (different clips of them), evaluation the unseen ones.
enum class ShapesSplit { train, distill, evaluation };
/// "shapes:train" or "train"; nothing for another word.
std::optional<ShapesSplit> parse_shapes_split(std::string_view name);
std::string to_string(ShapesSplit split);

/// What moves before what; lengths in pixels, times in frames, colours 0..255.
struct ShapeScene {
  int outline = 0;
  std::array<double, 3> colour{}, background{};
  double radius = 0;    ///< half the object's extent
  double x = 0, y = 0;  ///< centre at the middle of the clip
  double speed_x = 0, speed_y = 0;
};
/// Antialiased uint8 [frames, height, width, 3].
at::Tensor render_scene(const ShapeScene& scene, int64_t frames, int64_t height, int64_t width);

/// The scene of a caption at a clip size: a large object (radius a quarter of the shorter side) that passes
/// near the centre at mid-clip and stays fully visible; size, place and speed vary a little with the key.
ShapeScene shapes_scene(const ShapeAttributes& attributes, RandomKey key, int64_t frames, int64_t height,
                        int64_t width);

/// Combinations a split draws from: that many clips hold each once. What a count of 0 ("all") asks for.
int64_t shapes_split_size(ShapesSplit split);

struct ShapesClip {
  ShapeAttributes attributes;
  std::string caption;
  at::Tensor frames;  ///< uint8 [frames, height, width, 3]
};
/// Caption alone of clip `index` of a split: combinations in a fixed shuffled cycle.
ShapeAttributes shapes_attributes(ShapesSplit split, int64_t index);
/// Clip `index` of a split; depends on (seed, split, index) and the size only.
/// Error{usage} unless frames is 4k+1 and both sides are at least 32.
ShapesClip shapes_clip(ShapesSplit split, int64_t index, uint64_t seed = 0, int64_t frames = 17,
                       int64_t height = 128, int64_t width = 160);

}  // namespace surgery
