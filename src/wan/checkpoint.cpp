#include "wan/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/errors.h"
#include "base/text.h"
#include "storage/safetensors.h"
#include "storage/strict_json.h"
#include "wan/tensor_faults.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexEnd = ".safetensors.index.json";
constexpr const char* kComfyPrefix = "model.diffusion_model.";

/// Words in tensors' names by which a part and its naming are known. What most tensors say counts: a file
/// that lacks some, or has foreign ones, is still to be told apart.
struct Sign {
  ModelPart part;
  Naming naming;
  std::vector<std::string> words;
};
const std::vector<Sign> kSigns{
    {ModelPart::transformer, Naming::wan, {".self_attn.", ".cross_attn."}},
    {ModelPart::transformer, Naming::diffusers, {".attn1.", ".attn2.", "condition_embedder."}},
    {ModelPart::vae, Naming::wan, {"encoder.downsamples.", "decoder.upsamples."}},
    {ModelPart::vae, Naming::diffusers, {"encoder.down_blocks.", "decoder.up_blocks."}},
    {ModelPart::text_encoder, Naming::wan, {".pos_embedding.embedding.", ".ffn.gate."}},
    {ModelPart::text_encoder, Naming::diffusers, {"encoder.block.", "shared.weight"}}};

const char* in_words(ModelPart part) {
  return part == ModelPart::transformer ? "transformer" : part == ModelPart::vae ? "VAE" : "text encoder";
}
const char* standard_stem(ModelPart part) {
  return part == ModelPart::text_encoder ? "model" : "diffusion_pytorch_model";
}

/// Weights that belong together: one file, or shards.
struct Candidate {
  fs::path index;
  std::vector<fs::path> files;
  const fs::path& place() const { return index.empty() ? files.front() : index; }
};

/// Tensor -> shard, of an index of safetensors shards.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const nlohmann::json json = read_json_file(index.string(), 4);
  VALIDATE(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object() &&
               !json["weight_map"].empty(),
           "{}: has no weight_map (not an index of safetensors shards): download it again", index.string());
  std::map<std::string, std::string> shards;
  for (const auto& [name, value] : json["weight_map"].items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : "";
    // Its name comes from a file that anyone may have written: it must not lead out of the folder.
    VALIDATE(
        !shard.empty() && shard != "." && shard != ".." && shard.find_first_of("/\\") == std::string::npos,
        "{}: \"{}\" lies in {}, which is no shard of this folder (damaged or hostile file): check its source",
        index.string(), name, value.dump());
    shards[name] = shard;
  }
  return shards;
}

Candidate from_index(const fs::path& index) {
  Candidate candidate{index, {}};
  std::set<std::string> shards;
  for (const auto& [name, shard] : read_weight_map(index)) shards.insert(shard);
  for (const std::string& shard : shards) candidate.files.push_back(index.parent_path() / shard);
  return candidate;
}

Candidate one_file(const fs::path& file) {
  if (file.string().ends_with(kIndexEnd)) return from_index(file);
  return {{}, {file}};
}

/// "NAME-00002-of-00006.safetensors": {"NAME", 6}
std::optional<std::pair<std::string, int64_t>> shard_set(const fs::path& file) {
  const std::string name = file.stem().string();
  const size_t of = name.rfind("-of-"), number = of == std::string::npos ? of : name.rfind('-', of - 1);
  if (of == std::string::npos || number == std::string::npos) return std::nullopt;
  const auto count = parse_number<int64_t>(name.substr(of + 4));
  if (!count || *count < 1 || *count > 99999 ||
      !parse_number<int64_t>(name.substr(number + 1, of - number - 1)))
    return std::nullopt;
  return std::pair(name.substr(0, number), *count);
}

/// Every set of weights directly in a folder.
std::vector<Candidate> candidates_in(const fs::path& folder) {
  std::vector<Candidate> found;
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.') || !entry.is_regular_file()) continue;
    if (name.ends_with(kIndexEnd)) found.push_back(from_index(entry.path()));
    if (name.ends_with(".safetensors") || name.ends_with(".pth")) files.push_back(entry.path());
  }
  if (error) fail_io("{}: cannot be listed: {}", folder.string(), error.message());
  std::ranges::sort(files);
  std::set<fs::path> indexed;
  for (const Candidate& candidate : found) indexed.insert(candidate.files.begin(), candidate.files.end());
  std::map<std::pair<std::string, int64_t>, Candidate> sets;
  for (const fs::path& file : files) {
    if (indexed.contains(file)) continue;
    if (const auto set = shard_set(file))
      sets[*set].files.push_back(file);
    else
      found.push_back({{}, {file}});
  }
  for (auto& [set, candidate] : sets) found.push_back(std::move(candidate));
  std::ranges::sort(found, {}, [](const Candidate& candidate) { return candidate.place(); });
  return found;
}

/// Throws Error{io} when a shard is not there.
void check_complete(const Candidate& candidate) {
  for (const fs::path& file : candidate.files)
    if (!fs::exists(file) && !candidate.index.empty())
      fail_io("{}: names shard {}, which is not there (incomplete download): download it again",
              candidate.index.string(), file.filename().string());
  const auto set = candidate.index.empty() ? shard_set(candidate.files.front()) : std::nullopt;
  if (!set || static_cast<int64_t>(candidate.files.size()) == set->second) return;
  std::vector<std::string> missing;
  const fs::path folder = candidate.files.front().parent_path();
  for (int64_t i = 1; i <= set->second && missing.size() < 8; ++i)
    if (const std::string name = fmt::format("{}-{:05}-of-{:05}.safetensors", set->first, i, set->second);
        !fs::exists(folder / name))
      missing.push_back(name);
  fail_io("{}: {} of {} shards are there (incomplete download): download the others: {}", folder.string(),
          candidate.files.size(), set->second, fmt::join(missing, ", "));
}

std::vector<std::string> names_of(const Candidate& candidate) {
  std::vector<std::string> names;
  if (!candidate.index.empty())
    for (const auto& [name, shard] : read_weight_map(candidate.index)) names.push_back(name);
  else
    for (const fs::path& file : candidate.files)
      for (std::string& name : TensorStore::open_file(file).names()) names.push_back(std::move(name));
  return names;
}

/// What a set of weights holds, by its tensors' names; none when it is no part of a model.
struct Content {
  ModelPart part;
  Naming naming;
  std::string prefix;
};
std::optional<Content> content_by_names(const std::vector<std::string>& names) {
  const bool prefixed =
      std::ranges::any_of(names, [](const std::string& name) { return name.starts_with(kComfyPrefix); });
  const auto count = [&](const Sign& sign) {
    return std::ranges::count_if(names, [&](const std::string& name) {
      return (!prefixed || name.starts_with(kComfyPrefix)) &&
             std::ranges::any_of(
                 sign.words, [&](const std::string& word) { return name.find(word) != std::string::npos; });
    });
  };
  const auto best = std::ranges::max_element(kSigns, {}, count);
  if (count(*best) == 0) return std::nullopt;
  return Content{best->part, best->naming, prefixed ? kComfyPrefix : ""};
}

/// The part that a config.json says it describes; none when it does not say.
std::optional<ModelPart> described_by(const fs::path& config) {
  const nlohmann::json json = read_json_file(config.string());
  if (!json.is_object()) return std::nullopt;
  const auto word = [&](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (word("_class_name") == "AutoencoderKLWan") return ModelPart::vae;
  if (!word("_class_name").empty()) return ModelPart::transformer;
  if (!word("model_type").empty()) return ModelPart::text_encoder;
  return std::nullopt;
}

/// The config.json beside weights, unless it is another part's. diffusers' names mean that there must be one,
/// save for files of the text encoder that stand alone.
fs::path config_beside(const Candidate& candidate, const Content& content, bool alone) {
  const fs::path config = candidate.place().parent_path() / "config.json";
  if (!fs::exists(config)) {
    const bool needed =
        content.naming == Naming::diffusers && !(alone && content.part == ModelPart::text_encoder);
    return needed ? config : fs::path();
  }
  const auto described = described_by(config);
  if (described) return *described == content.part ? config : fs::path();
  return alone ? fs::path() : config;
}

/// What a candidate holds. One that cannot be read is noted, so that all of them are told at once.
std::optional<Content> content_of_candidate(const Candidate& candidate, bool only_one,
                                            std::vector<std::string>& unreadable) {
  try {
    return content_by_names(names_of(candidate));
  } catch (const Error& error) {
    if (only_one || error.code() != ExitCode::data) throw;
    unreadable.push_back(error.what());
    return std::nullopt;
  }
}

/// The one candidate that holds the part. None when no one does; then `others` tells what they hold.
std::optional<std::pair<Candidate, Content>> choose(ModelPart part, const std::vector<Candidate>& candidates,
                                                    const fs::path& where, std::vector<std::string>& others) {
  std::optional<std::pair<Candidate, Content>> chosen;
  std::vector<std::string> unreadable;
  for (const Candidate& candidate : candidates) {
    const auto content = content_of_candidate(candidate, candidates.size() == 1, unreadable);
    if (!content || content->part != part) {
      others.push_back(fmt::format(
          "{} holds {}", candidate.place().filename().string(),
          content ? fmt::format("the tensors of a {}", in_words(content->part)) : "no part of Wan2.1"));
      continue;
    }
    VALIDATE(
        !chosen,
        "{}: two candidates for the {}, {} and {} (which one is meant cannot be told): name one of them, or "
        "move the other away",
        where.string(), in_words(part), chosen->first.place().filename().string(),
        candidate.place().filename().string());
    chosen.emplace(candidate, *content);
  }
  // What cannot be read may be the one that is meant, and another copy must not silently take its place.
  VALIDATE(unreadable.empty(),
           "{}: which file holds the {} is told by content, and not every file can be read ({}): download it "
           "again, move it away, or name the file that is meant",
           where.string(), in_words(part), fmt::join(unreadable, "; "));
  return chosen;
}

/// Weights in diffusers' transformer/, vae/ or text_encoder/. The standard name counts before all others,
/// since the hub keeps variants beside it.
std::vector<Candidate> candidates_in_own_folder(ModelPart part, const fs::path& folder) {
  const fs::path single = folder / fmt::format("{}.safetensors", standard_stem(part)),
                 index = folder / fmt::format("{}{}", standard_stem(part), kIndexEnd);
  if (fs::exists(single)) return {{{}, {single}}};
  if (fs::exists(index)) return {from_index(index)};
  std::vector<Candidate> candidates = candidates_in(folder);
  if (candidates.empty())
    fail_io("{}: neither {} nor {} is there (no weights to load): check the model's folder", folder.string(),
            single.filename().string(), index.filename().string());
  return candidates;
}

std::optional<PartFiles> find(ModelPart part, const fs::path& where, std::vector<std::string>& others) {
  if (!fs::exists(where))
    fail_io("{}: no such file or folder (the {} is read from there): check model.path or --model",
            where.string(), in_words(part));
  const bool named = fs::is_directory(where) && where.lexically_normal().filename() == to_string(part);
  const fs::path own_folder = named ? where : where / to_string(part);
  const bool is_file = !fs::is_directory(where), owned = fs::is_directory(own_folder);
  const std::vector<Candidate> candidates = owned     ? candidates_in_own_folder(part, own_folder)
                                            : is_file ? std::vector<Candidate>{one_file(where)}
                                                      : candidates_in(where);
  const auto chosen = choose(part, candidates, where, others);
  if (!chosen) return std::nullopt;
  const auto& [candidate, content] = *chosen;
  check_complete(candidate);
  PartFiles files;
  files.part = content.part;
  files.naming = content.naming;
  files.prefix = content.prefix;
  files.weights = candidate.files;
  files.index = candidate.index;
  if (owned) {
    files.own_folder = own_folder;
    const fs::path config = own_folder / "config.json";
    if (fs::exists(config) || files.naming == Naming::diffusers) files.config = config;
  } else {
    files.config = config_beside(candidate, content, is_file);
  }
  return files;
}

/// The tensors of an index's shards. Index and shards must tell the same, in both directions: a tensor that
/// only its shard knows would be left out in silence, or stand for an older one that the index means.
TensorMap read_indexed(const fs::path& index) {
  const std::map<std::string, std::string> indexed = read_weight_map(index);
  std::map<std::string, TensorStore> shards;
  for (const auto& [name, shard] : indexed)
    if (!shards.contains(shard)) shards.emplace(shard, TensorStore::open_file(index.parent_path() / shard));
  TensorMap read;
  TensorFaults faults;
  for (const auto& [name, shard] : indexed)
    if (const TensorStore& store = shards.at(shard); store.contains(name))
      read[name] = store.get(name);
    else
      faults.add(name, "is not in shard " + shard);
  for (const auto& [shard, store] : shards)
    for (const std::string& name : store.names())
      if (const auto found = indexed.find(name); found == indexed.end())
        faults.add(name, fmt::format("is in shard {}, but not in the index", shard));
      else if (found->second != shard)
        faults.add(name, fmt::format("is in shard {}, but by the index in {}", shard, found->second));
  VALIDATE(faults.empty(),
           "{}: does not fit its shards (incomplete download, or files of two checkpoints?): download the "
           "index and its shards again:{}",
           index.string(), faults.text());
  return read;
}

}  // namespace

const char* to_string(ModelPart part) {
  return part == ModelPart::transformer ? "transformer" : part == ModelPart::vae ? "vae" : "text_encoder";
}

fs::path PartFiles::place() const {
  if (!own_folder.empty()) return own_folder;
  return index.empty() ? weights.front() : index;
}

std::optional<PartFiles> find_part(ModelPart part, const fs::path& where) {
  std::vector<std::string> others;
  return find(part, where, others);
}

PartFiles require_part(ModelPart part, const fs::path& where) {
  std::vector<std::string> others;
  if (auto files = find(part, where, others)) return *files;
  VALIDATE(others.empty(), "{}: holds no weights of a {} ({}): name the place that does", where.string(),
           in_words(part), fmt::join(others, "; "));
  fail_io(
      "{}: no weights of a {} are there ({}/{}.safetensors, or a file of any name): check model.path or "
      "--model",
      where.string(), in_words(part), to_string(part), standard_stem(part));
}

TensorMap read_part(const PartFiles& files) {
  TensorMap read;
  if (!files.index.empty())
    read = read_indexed(files.index);
  else
    for (const fs::path& file : files.weights)
      for (auto& [name, tensor] : TensorStore::open_file(file).all())
        VALIDATE(read.emplace(name, tensor).second,
                 "{}: tensor {} is in another shard too (files of two checkpoints?): keep those of one",
                 file.string(), name);
  if (files.prefix.empty()) return read;
  TensorMap tensors;
  for (const auto& [name, tensor] : read)
    if (name.starts_with(files.prefix)) tensors[name.substr(files.prefix.size())] = tensor;
  return tensors;
}

TensorMap to_our_names(const PartFiles& files, TensorMap tensors, const TensorNames& names,
                       const ParameterShapes& shapes) {
  const std::string where = files.config.empty() ? files.place().string()
                                                 : fmt::format("{} with {}", files.place().string(),
                                                               files.config.filename().string());
  if (files.naming == Naming::diffusers) {
    check_parameters(where, shapes, tensors);
    return tensors;
  }
  ParameterShapes expected;
  for (const auto& [ours, wan] : names.to_wan()) expected[wan] = shapes.at(ours);
  check_parameters(where, expected, tensors);
  TensorMap renamed;
  for (const auto& [wan, tensor] : tensors) renamed[names.to_ours().at(wan)] = tensor;
  return renamed;
}

std::string stored_config(const PartFiles& files) {
  if (files.weights.size() != 1) return "";
  std::array<char, 4> begin{};
  std::ifstream(files.weights.front(), std::ios::binary).read(begin.data(), begin.size());
  if (begin == std::array<char, 4>{'P', 'K', 3, 4}) return "";  // a torch archive
  const auto file = SafetensorsFile::open(files.weights.front());
  const auto found = file->metadata().find(kStoredConfig);
  return found == file->metadata().end() ? "" : found->second;
}

fs::path config_alone(ModelPart part, const fs::path& where) {
  const fs::path config = where / to_string(part) / "config.json";
  return fs::exists(config) ? config : fs::path();
}

std::vector<fs::path> content_of(const PartFiles& files) {
  std::vector<fs::path> content;
  if (files.own_folder.empty()) {
    content = files.weights;
    if (!files.config.empty()) content.push_back(files.config);
  } else {
    for (const auto& entry : fs::directory_iterator(files.own_folder))
      if (entry.is_regular_file()) content.push_back(entry.path());
  }
  std::ranges::sort(content);
  return content;
}

fs::path find_tokenizer(const fs::path& where) {
  for (const char* inside : {"tokenizer", "google/umt5-xxl"})
    if (fs::is_directory(where / inside)) return where / inside;
  return where;
}

void save_part(ModelPart part, const TensorNames& names, const PartContent& content, const fs::path& folder,
               const SaveAs& as) {
  std::vector<SavedTensor> tensors;
  for (const auto& [name, tensor] : content.parameters)
    tensors.push_back(
        {as.naming == Naming::wan ? names.to_wan().at(name) : name, tensor, content.dtype(name)});
  std::map<std::string, std::string> metadata;
  if (as.config_inside) metadata[kStoredConfig] = content.config;
  write_weights(folder, as.stem.empty() ? standard_stem(part) : as.stem, tensors, as.shard_bytes, metadata);
  if (!as.config_inside) write_file(folder / "config.json", content.config_file);
}

}  // namespace surgery
