#include "recipe/finetune_checkpoint.h"

#include <algorithm>

#include "base/errors.h"
#include "base/log.h"
#include "base/text.h"
#include "storage/atomic_file.h"
#include "storage/checkpoint.h"

namespace surgery {
namespace {

constexpr const char* kFile = "state-0-of-1.safetensors";
constexpr std::string_view kParameter = "parameter.", kMaster = "master.";

}  // namespace

void save_finetune(const std::filesystem::path& root, const AdamW& optimizer, const AdamW::Named& parameters,
                   const std::string& fingerprint, int world, const std::vector<int64_t>& milestones) {
  TensorMap tensors;
  for (const auto& [name, parameter] : parameters)
    tensors[std::string(kParameter) + name] = parameter.detach();
  for (const auto& [name, tensor] : optimizer.state()) {
    if (name.starts_with(kMaster))
      tensors[std::string(kParameter) + name.substr(kMaster.size())] = tensor;
    else
      tensors[name] = tensor;
  }
  const auto folder = begin_checkpoint(root, optimizer.steps());
  save_tensors(folder / kFile, tensors);
  commit_checkpoint(folder, optimizer.steps(), {seal_file(folder, kFile)},
                    {{"fingerprint", fingerprint}, {"world", world}});
  prune_checkpoints(root, optimizer.steps(), 2, milestones);
}

std::optional<int64_t> newest_finetune(const std::filesystem::path& root, const std::string& fingerprint,
                                       const std::vector<int64_t>& milestones) {
  std::vector<int64_t> whole;
  for (const int64_t step : checkpoint_steps(root)) {
    if (step > milestones.back()) continue;
    try {
      const Checkpoint checkpoint = open_checkpoint(checkpoint_folder(root, step));
      const std::string made_with = checkpoint.metadata.value("fingerprint", "");
      if (made_with != fingerprint)
        fail_usage(
            "{}: made with other settings, data or student (fingerprint {} instead of {}): choose another "
            "run.directory, or move the finetune folder away",
            checkpoint.folder.string(), made_with, fingerprint);
      whole.push_back(step);
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      set_aside(checkpoint_folder(root, step), error.what());
    }
  }
  return resumable_step(whole, milestones);
}

std::optional<int64_t> resumable_step(const std::vector<int64_t>& whole,
                                      const std::vector<int64_t>& milestones) {
  const auto missing = std::ranges::find_if(
      milestones, [&](int64_t milestone) { return !std::ranges::binary_search(whole, milestone); });
  const int64_t last = missing == milestones.end() ? milestones.back() : *missing;
  const auto end = std::ranges::upper_bound(whole, last);
  if (end == whole.begin()) return std::nullopt;
  return *(end - 1);
}

void load_finetune(const std::filesystem::path& root, int64_t iteration, AdamW& optimizer,
                   const AdamW::Named& parameters) {
  const at::NoGradGuard no_grad;
  const auto store = TensorStore::open_file(checkpoint_folder(root, iteration) / kFile);
  std::map<std::string, at::Tensor> state;
  for (const std::string& name : store.names())
    if (!name.starts_with(kParameter)) state[name] = store.get(name);
  for (const auto& [name, parameter] : parameters) {
    const at::Tensor saved = store.get(std::string(kParameter) + name);
    if (parameter.scalar_type() == at::kFloat)
      parameter.detach().copy_(saved);
    else
      state[std::string(kMaster) + name] = saved;
  }
  optimizer.load(state);
}

TensorMap load_finetuned_parameters(const std::filesystem::path& root, int64_t iteration) {
  const Checkpoint checkpoint = open_checkpoint(checkpoint_folder(root, iteration));
  const auto store = TensorStore::open_file(checkpoint.folder / kFile);
  TensorMap parameters;
  for (const std::string& name : store.names())
    if (name.starts_with(kParameter)) parameters[name.substr(kParameter.size())] = store.get(name);  // mapped
  return parameters;
}

std::string finetune_checkpoint_hash(const std::filesystem::path& root, int64_t iteration) {
  const Checkpoint checkpoint = open_checkpoint(checkpoint_folder(root, iteration), CheckpointCheck::sizes);
  std::string hashes;
  for (const CheckpointFile& file : checkpoint.files) hashes += file.hash;
  return hashes;
}

std::vector<int64_t> milestone_list(const std::string& typed, int64_t iterations) {
  const std::string text = without_spaces(typed);
  std::vector<int64_t> list{iterations};
  for (const std::string& part : text.empty() ? std::vector<std::string>() : split(text, ',')) {
    const int64_t value = parse_number<int64_t>(part).value_or(0);
    if (value <= 0)
      fail_usage("finetune.checkpoints: '{}' is no iteration: write numbers separated by commas (400,600)",
                 part);
    if (value <= iterations) list.push_back(value);
  }
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return list;
}

}  // namespace surgery
