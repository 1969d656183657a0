#include "recipe/finetune_state.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/log.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr const char* kFile = "state-0-of-1.safetensors";

std::filesystem::path folder_of(const std::filesystem::path& root, int64_t iteration) {
  return root / fmt::format("step-{:06d}", iteration);
}

std::filesystem::path manifest_of(const std::filesystem::path& root, int64_t iteration) {
  return folder_of(root, iteration) / "manifest.json";
}

nlohmann::json read_manifest(const std::filesystem::path& root, int64_t iteration) {
  const auto path = manifest_of(root, iteration);
  try {
    nlohmann::json manifest = nlohmann::json::parse(read_file(path));
    VALIDATE(manifest.at("format") == "surgery-finetune" && manifest.at("version") == 1,
             "{}: not a checkpoint of this program", path.string());
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    fail_data("{}: damaged manifest ({})", path.string(), error.what());
  }
}

FinetuneState read_state(const std::filesystem::path& root, int64_t iteration,
                         const nlohmann::json& manifest) {
  const auto file = folder_of(root, iteration) / kFile;
  VALIDATE(std::filesystem::exists(file), "{}: missing (the checkpoint is incomplete)", file.string());
  VALIDATE(hash_file(file) == manifest.at("files").at(kFile).at("hash"),
           "{}: hash differs from the manifest's (damaged)", file.string());
  const TensorStore store = TensorStore::open_file(file);
  FinetuneState state;
  state.iteration = iteration;
  for (const std::string& stored : store.names()) {
    if (!stored.starts_with("parameter.")) continue;
    const std::string name = stored.substr(10);
    state.names.push_back(name);
    state.masters.push_back(store.get(stored).clone());
    state.exp_avg.push_back(store.get("exp_avg." + name).clone());
    state.exp_avg_sq.push_back(store.get("exp_avg_sq." + name).clone());
    state.steps.push_back(at::full({}, static_cast<double>(iteration), at::kFloat));
  }
  return state;
}

}  // namespace

FinetuneState FinetuneState::start(const TensorMap& parameters) {
  FinetuneState state;
  for (const auto& [name, parameter] : parameters) {
    state.names.push_back(name);
    state.masters.push_back(parameter.detach().to(at::kFloat).clone());
    state.exp_avg.push_back(at::zeros_like(state.masters.back()));
    state.exp_avg_sq.push_back(at::zeros_like(state.masters.back()));
    state.steps.push_back(at::zeros({}, state.masters.back().options()));
  }
  return state;
}

void save_finetune(const std::filesystem::path& root, const FinetuneState& state,
                   const std::string& fingerprint, int world) {
  const auto folder = folder_of(root, state.iteration);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail_io("{}: cannot make the checkpoint folder ({})", folder.string(), error.message());
  TensorMap tensors;
  for (size_t i = 0; i < state.names.size(); ++i) {
    tensors["parameter." + state.names[i]] = state.masters[i];
    tensors["exp_avg." + state.names[i]] = state.exp_avg[i];
    tensors["exp_avg_sq." + state.names[i]] = state.exp_avg_sq[i];
  }
  save_tensors(folder / kFile, tensors);
  nlohmann::ordered_json manifest{
      {"format", "surgery-finetune"},
      {"version", 1},
      {"iteration", state.iteration},
      {"fingerprint", fingerprint},
      {"world", world},
      {"files",
       {{kFile,
         {{"bytes", std::filesystem::file_size(folder / kFile)}, {"hash", hash_file(folder / kFile)}}}}}};
  // The manifest comes last: a folder without one is no checkpoint.
  write_file(folder / "manifest.json", manifest.dump(1) + "\n");
}

std::vector<int64_t> finetune_checkpoints(const std::filesystem::path& root) {
  std::vector<int64_t> found;
  if (!std::filesystem::is_directory(root)) return found;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    int64_t iteration = 0;
    if (!name.starts_with("step-")) continue;
    const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), iteration);
    if (error == std::errc{} && end == name.data() + name.size() &&
        std::filesystem::exists(entry.path() / "manifest.json"))
      found.push_back(iteration);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<FinetuneState> load_newest_finetune(const std::filesystem::path& root,
                                                  const std::string& fingerprint, int64_t most) {
  std::vector<int64_t> candidates = finetune_checkpoints(root);
  while (!candidates.empty()) {
    const int64_t iteration = candidates.back();
    candidates.pop_back();
    if (iteration > most) continue;
    try {
      const nlohmann::json manifest = read_manifest(root, iteration);
      if (manifest.at("fingerprint") != fingerprint)
        fail_usage(
            "{}: made with other settings, data or student (fingerprint {} instead of {}): choose another "
            "run.directory, or move the finetune folder away",
            folder_of(root, iteration).string(), manifest.at("fingerprint").get<std::string>(), fingerprint);
      return read_state(root, iteration, manifest);
    } catch (const Error& error) {
      if (error.code() == ExitCode::usage) throw;
      set_aside(folder_of(root, iteration), error.what());
    } catch (const nlohmann::json::exception& error) {
      set_aside(folder_of(root, iteration), error.what());
    }
  }
  return std::nullopt;
}

TensorMap load_finetuned_parameters(const std::filesystem::path& root, int64_t iteration) {
  const FinetuneState state = read_state(root, iteration, read_manifest(root, iteration));
  TensorMap parameters;
  for (size_t i = 0; i < state.names.size(); ++i) parameters[state.names[i]] = state.masters[i];
  return parameters;
}

std::string finetune_checkpoint_hash(const std::filesystem::path& root, int64_t iteration) {
  return read_manifest(root, iteration).at("files").at(kFile).at("hash");
}

void remove_finetune(const std::filesystem::path& root, int64_t iteration) {
  // The manifest goes first: what is half removed is no checkpoint.
  std::filesystem::remove(manifest_of(root, iteration));
  std::filesystem::remove_all(folder_of(root, iteration));
}

std::vector<int64_t> milestone_list(const std::string& text, int64_t iterations) {
  std::vector<int64_t> list;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, value);
    if (error != std::errc{} || stop != text.data() + end || value <= 0)
      fail_usage("finetune.checkpoints: '{}' is no iteration: write numbers separated by commas (400,600)",
                 text.substr(at, end - at));
    if (value <= iterations) list.push_back(value);
    at = end + 1;
  }
  list.push_back(iterations);
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return list;
}

}  // namespace surgery
