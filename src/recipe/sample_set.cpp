#include "recipe/sample_set.h"

#include "base/errors.h"
#include "base/text.h"
#include "recipe/artifact.h"
#include "recipe/finetune_checkpoint.h"
#include "recipe/sampling.h"
#include "recipe/trained_subset.h"
#include "storage/atomic_file.h"
#include "storage/hdf5_file.h"

namespace surgery {
namespace {
constexpr const char* kFormat = "surgery-sample";
constexpr int kVersion = 1;
constexpr std::string_view kStep = "step-";
constexpr size_t kLongestName = 180;  // file systems allow 255 bytes; "-<i>.mp4" and temporaries need room
std::string file_stem(const std::string& prompt) {
  std::string stem;
  for (const char c : prompt) stem += (c == '/' || c == '\0' || c == '\n') ? '_' : c;
  if (stem.size() > kLongestName) {
    size_t end = kLongestName;
    while (end > 0 && (static_cast<unsigned char>(stem[end]) & 0xC0) == 0x80)
      --end;  // whole UTF-8 characters
    stem.resize(end);
  }
  return stem;
}

}  // namespace

void write_sample(const std::filesystem::path& path, const Sample& sample) {
  Hdf5Writer file(path, kFormat, kVersion);
  file.attribute("fingerprint", sample.fingerprint);
  file.attribute("index", sample.index);
  file.attribute("seed", static_cast<int64_t>(sample.seed));
  file.text("name", sample.name);
  file.text("prompt", sample.prompt);
  file.dataset("latents", sample.latents);
  file.commit();
}

Sample read_sample(const std::filesystem::path& path) {
  const Hdf5Reader file(path, kFormat, kVersion);
  Sample sample;
  sample.fingerprint = file.attribute_text("fingerprint");
  sample.index = file.attribute_int("index");
  sample.seed = static_cast<uint64_t>(file.attribute_int("seed"));
  sample.name = file.text("name");
  sample.prompt = file.text("prompt");
  sample.latents = file.dataset("latents");
  return sample;
}

std::vector<std::string> sample_variants(const Config& config) {
  std::vector<std::string> variants{"teacher", "distilled"};
  if (config.finetune.iterations > 0)
    for (const int64_t at : milestone_list(config.finetune.checkpoints, config.finetune.iterations))
      variants.push_back(fmt::format("{}{:06d}", kStep, at));
  return variants;
}

std::optional<int64_t> variant_iteration(const std::string& variant) {
  if (!variant.starts_with(kStep)) return std::nullopt;
  return parse_number<int64_t>(std::string_view(variant).substr(kStep.size()));
}

std::filesystem::path sample_path(const RunDirectory& run, const std::string& variant, int64_t index) {
  return run.samples(variant) / fmt::format("sample-{:06d}.h5", index);
}

std::filesystem::path video_folder(const Config& config, const std::string& variant) {
  const RunDirectory run(config.run.directory);
  const bool last = sample_variants(config).back() == variant;
  return last ? run.videos() : run.root() / ("videos-" + variant);
}

std::vector<std::string> video_names(const std::vector<Prompt>& prompts, int64_t samples) {
  std::vector<std::string> names;
  std::map<std::string, int64_t> used;
  for (const Prompt& prompt : prompts)
    for (int64_t i = 0; i < samples; ++i) {
      const std::string stem = file_stem(prompt.name);
      names.push_back(fmt::format("{}-{}.mp4", stem, used[stem]++));
    }
  return names;
}

std::vector<std::string> sample_fingerprints(Recipe& recipe, const Selection& selection,
                                             const std::string& variant, const std::vector<Prompt>& prompts) {
  const GenerateSection& g = recipe.config.generate;
  std::string model = recipe.transformer_hash();
  if (variant != "teacher") model += student_fingerprint(recipe, selection);
  if (const auto iteration = variant_iteration(variant))
    model += finetune_checkpoint_hash(recipe.run.finetune(), *iteration);
  std::string noise;
  if (!g.noise.empty() && recipe.session.rank() == 0) noise = " " + hash_file(g.noise);
  noise = recipe.session.world().broadcast_text(noise, 0);
  const std::string negative = recipe.negative_prompt(g.negative_prompt);
  std::vector<std::string> fingerprints;
  for (const Prompt& prompt : prompts)
    for (int64_t i = 0; i < g.samples; ++i)
      fingerprints.push_back(make_fingerprint(
          {"sample-1", model, recipe.text_rows_hash(), recipe.vae_hash(), prompt.text, negative,
           fmt::format("{} {} {}{}", fingerprints.size(), recipe.config.run.seed, sampling_text(g), noise)}));
  return fingerprints;
}

Transformer variant_model(Recipe& recipe, const std::string& variant, const Selection& selection,
                          Precision precision) {
  if (variant == "teacher") return recipe.load_transformer(precision);
  Transformer student = make_student(recipe, selection, precision);
  if (variant == "distilled") return student;
  student.keep_blocks();  // finetuning has changed them
  const int64_t iteration = variant_iteration(variant).value();
  const TensorMap masters = load_finetuned_parameters(recipe.run.finetune(), iteration);
  const TrainedSubset trained(recipe.config.finetune.train, selection.rates);
  const at::NoGradGuard no_grad;
  size_t used = 0;
  for (auto& [name, parameter] : student.parameters()) {
    const auto found = masters.find(name);
    VALIDATE((found != masters.end()) == trained.contains(name),
             "finetune checkpoint {} {} {} (made with another selection or finetune.train): finetune again",
             iteration, found == masters.end() ? "lacks" : "has", name);
    if (found == masters.end()) continue;
    parameter.copy_(found->second);
    ++used;
  }
  VALIDATE(used == masters.size(),
           "finetune checkpoint {} has {} parameters that are not this student's (made with another "
           "selection): finetune again",
           iteration, masters.size() - used);
  return student;
}

}  // namespace surgery
