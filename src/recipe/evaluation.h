#pragma once
#include <filesystem>
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

struct Evaluation {
  std::string fingerprint;
  std::vector<VariantScore> variants;  ///< in sample_variants' order
  /// Mean over the finetuning checkpoints, as the paper averages its four.
  bool has_average = false;
  VariantScore average;
};

std::string evaluation_json(const Evaluation& evaluation);
Evaluation read_evaluation(const std::filesystem::path& path);

}  // namespace surgery
