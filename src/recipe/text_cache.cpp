#include "recipe/text_cache.h"

#include <algorithm>

#include "base/errors.h"
#include "base/log.h"
#include "base/utf8.h"
#include "parallel/coordinator.h"
#include "recipe/artifact.h"
#include "recipe/trajectory_set.h"
#include "storage/hdf5_file.h"

namespace surgery {
namespace {

constexpr const char* kFormat = "surgery-text";
constexpr int kVersion = 1;

std::string beginning_of(const std::string& prompt) {
  std::string text = to_utf8(from_utf8(prompt).substr(0, 60));
  std::ranges::replace(text, '\n', ' ');
  return text;
}

/// Names the file as well. Collective on first use.
std::string text_fingerprint(Recipe& recipe, const std::string& prompt) {
  return make_fingerprint({"text-1", recipe.text_rows_hash(), prompt});
}

void write_text(const std::filesystem::path& path, const std::string& fingerprint, const std::string& prompt,
                const at::Tensor& rows) {
  Hdf5Writer file(path, kFormat, kVersion);
  file.attribute("fingerprint", fingerprint);
  file.text("prompt", prompt);
  file.dataset("text", rows);
  file.commit();
}

at::Tensor read_text(const std::filesystem::path& path, const std::string& prompt) {
  const Hdf5Reader file(path, kFormat, kVersion);
  at::Tensor rows = file.dataset("text");
  VALIDATE(rows.dim() == 2 && rows.scalar_type() == at::kFloat && file.text("prompt") == prompt,
           "{}: holds the rows of another prompt, or none: remove it", path.string());
  return rows;
}

}  // namespace

bool prepare_text(Recipe& recipe, std::vector<std::string> prompts) {
  std::ranges::sort(prompts);
  const auto same = std::ranges::unique(prompts);
  prompts.erase(same.begin(), same.end());
  recipe.make_folder(recipe.run.text());
  std::vector<std::string> fingerprints;
  for (const std::string& prompt : prompts) fingerprints.push_back(text_fingerprint(recipe, prompt));
  const auto path = [&](size_t i) { return recipe.run.text_rows(fingerprints[i]); };
  const std::vector<int64_t> missing = missing_units(recipe, std::ssize(prompts), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    return check_artifact(recipe.run, path(at), fingerprints[at], [](const auto& file) {
      return Hdf5Reader(file, kFormat, kVersion).attribute_text("fingerprint");
    });
  });
  if (missing.empty()) return true;
  recipe.release_teacher();  // not both at once
  std::vector<WorkUnit> units;
  for (const int64_t i : missing) units.push_back({fmt::format("text of prompt {}", i), 1});
  const std::vector<size_t> left = run_units(
      recipe.session, units,
      [&](size_t u) {
        const auto i = static_cast<size_t>(missing[u]);
        recipe.check_stop(fmt::format("text of prompt {}", i));
        const at::Tensor rows = recipe.embed(prompts[i]);
        if (rows.size(0) == recipe.text_length())
          log_warning("'{}...' fills all {} tokens that a prompt may have: anything behind them is not read",
                      beginning_of(prompts[i]), rows.size(0));
        write_text(path(i), fingerprints[i], prompts[i], rows);
      },
      [&] { return recipe.stop_requested(); }, recipe.coordinator());
  recipe.release_text_encoder();
  log_info("text: {} prompts encoded, {} were there", missing.size() - left.size(),
           prompts.size() - missing.size());
  return left.empty();
}

at::Tensor text_rows(Recipe& recipe, const std::string& prompt) {
  const auto path = recipe.run.text_rows(text_fingerprint(recipe, prompt));
  require_file(path, "run");
  return read_text(path, prompt);
}

}  // namespace surgery
