#pragma once
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "base/tensor.h"
#include "data/shapes.h"

namespace surgery {

/// What plain image analysis reads from a clip; nothing where no answer is clear.
struct ShapesReading {
  std::optional<int> colour, outline, direction, background;
  double overlap = 0;  ///< mean intersection over union with the best template
};

/// uint8 [T, H, W, 3], any device. Background: median of the border. Object: the largest connected area that
/// differs from it. Colour: hue of the object's inside. Outline: overlap of the object's mask, fitted into
/// its box, with four templates over several frames. Direction: motion of the centroid.
ShapesReading read_shapes(const at::Tensor& frames);

/// Counts over clips: an attribute is right when it reads as asked.
struct ShapesScore {
  int64_t clips = 0, all_four = 0;
  std::array<int64_t, 4> right{};  ///< background, colour, outline, direction

  void add(const ShapeAttributes& asked, const ShapesReading& reading);
  double attribute_share() const;  ///< of all 4 x clips attributes
  /// Of the clips, those with this attribute (index of `right`) as asked; 0 without clips.
  double attribute_share(size_t attribute) const;
  double clip_share() const;         ///< of clips with all four
  Proportion clip_interval() const;  ///< of clips with all four, 95 %
  std::string summary() const;       ///< one line for a log
};

}  // namespace surgery
