#pragma once
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/shapes_score.h"
#include "recipe/sample_set.h"

namespace surgery {

/// How one variant's clips compare with the teacher's from the same noise.
struct VariantScore {
  std::string variant;
  int64_t clips = 0;
  double latent_error = 0;  ///< mean over clips of |student - teacher|_2 / |teacher|_2; 0 for the teacher
  double psnr = 0;          ///< mean, dB, pixels in [-1, 1]; 0 for the teacher
  bool has_shapes = false;  ///< prompts are of the shapes set
  ShapesScore shapes;
};

/// Mean over the finetuning checkpoints, as the paper averages its four. Their clips share prompts and noise,
/// so they do not count as more clips, and the mean has no interval of its own.
struct MeanScore {
  int64_t checkpoints = 0, clips = 0;  ///< clips of each
  double latent_error = 0, psnr = 0;
  bool has_shapes = false;
  double clip_share = 0;                    ///< of clips with all four attributes
  std::array<double, 4> attribute_share{};  ///< background, colour, outline, direction
};

struct Evaluation {
  std::string fingerprint;
  std::vector<VariantScore> variants;  ///< in sample_variants' order
  std::optional<MeanScore> average;    ///< of several checkpoints
};

std::string evaluation_json(const Evaluation& evaluation);
Evaluation read_evaluation(const std::filesystem::path& path);

}  // namespace surgery
