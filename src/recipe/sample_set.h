#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "recipe/student.h"

namespace surgery {

/// Frames a second of every generated clip: Wan2.1's own.
inline constexpr double kVideoFps = 16;

/// One generated clip's latents: samples/VARIANT/sample-000012.h5.
struct Sample {
  std::string fingerprint, name, prompt;
  int64_t index = 0;  ///< which sample of the prompt
  uint64_t seed = 0;
  at::Tensor latents;  ///< [16, T, H, W], fp32, normalised
};
void write_sample(const std::filesystem::path& path, const Sample& sample);
Sample read_sample(const std::filesystem::path& path);

/// Models that are sampled from the same noise: "teacher", "distilled" (the student before finetuning),
/// "step-000400", ...
std::vector<std::string> sample_variants(const Config& config);
/// The finetuning iteration of "step-000400"; none for the other variants.
std::optional<int64_t> variant_iteration(const std::string& variant);
std::filesystem::path sample_path(const RunDirectory& run, const std::string& variant, int64_t index);
/// videos/ for the last variant, videos-VARIANT/ for the others.
std::filesystem::path video_folder(const Config& config, const std::string& variant);
/// Of every clip, `samples` a prompt: <original prompt>-<i>.mp4, with characters that a file name cannot hold
/// replaced; i counts the clips of that name, so that a prompt that stands in the list twice keeps both.
std::vector<std::string> video_names(const std::vector<Prompt>& prompts, int64_t samples);

/// Error{usage}, Error{io} or Error{data} where generate.prompts or generate.noise cannot be used.
void check_given_noise(const Recipe& recipe);

/// What every clip of a variant depends on, one a clip: `samples` of each prompt. Collective on first use.
std::vector<std::string> sample_fingerprints(Recipe& recipe, const Selection& selection,
                                             const std::string& variant, const std::vector<Prompt>& prompts);

/// The teacher's sample files without their mp4, of those clips for which `wanted` holds (one a clip). Needs
/// no selection. Collective; false when it was stopped.
bool make_teacher_samples(Recipe& recipe, const std::vector<bool>& wanted);

/// The transformer of a variant, on the recipe's device.
Transformer variant_model(Recipe& recipe, const std::string& variant, const Selection& selection,
                          Precision precision);

}  // namespace surgery
