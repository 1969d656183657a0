#include "app/inspect_run.h"

#include "app/options.h"
#include "recipe/plan.h"
#include "recipe/run_directory.h"
#include "recipe/run_status.h"

namespace surgery {
namespace {

using Json = nlohmann::ordered_json;

/// The run's own configuration, of the folder as it is named now; none where config.cfg is someone else's.
std::optional<Config> config_of(const std::filesystem::path& folder) {
  const std::filesystem::path file = RunDirectory(folder).config();
  if (!std::filesystem::exists(file)) return std::nullopt;
  ParsedArguments parsed;
  parsed.settings = read_config_file(file, parsed.faults);
  parsed.settings.push_back({"run.directory", folder.string(), "inspect"});
  try {
    return resolve_config(std::move(parsed));
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// How many blocks the teacher has, where its configuration is still there.
std::optional<int64_t> blocks_of(const ModelSection& model) {
  try {
    return read_model_sizes(model).transformer.num_layers;
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<Json> inspect_run(const std::filesystem::path& folder) {
  const auto config = config_of(folder);
  if (!config) return std::nullopt;
  const auto status = run_status(*config, blocks_of(config->model));
  Json stages = Json::array();
  for (const StageStatus& stage : status) {
    Json row{{"stage", stage.stage}, {"exists", stage.exists}};
    row["wanted"] = stage.wanted ? Json(*stage.wanted) : Json("not known");
    row["unit"] = stage.unit;
    if (!config->run.base.empty()) row["in_base"] = stage.in_base;
    stages.push_back(row);
  }
  const std::string missing = missing_text(status);
  Json run{{"kind", "run"}, {"path", folder.string()}, {"teacher", config->model.path}};
  if (!config->run.base.empty()) run["base"] = config->run.base;
  run["stages"] = stages;
  run["missing"] = missing.empty() ? "nothing" : missing;
  return run;
}

}  // namespace surgery
