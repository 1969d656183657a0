#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/strict_json.h"
#include "wan/transformer.h"

namespace surgery {
namespace {

using Json = nlohmann::json;

// Far above any transformer of this family; they keep a damaged file from asking for endless work or memory.
constexpr int64_t kMostLayers = 4096, kMostExtent = int64_t{1} << 24;

/// Reads typed keys of one JSON object and collects every fault, so that they are reported together.
class KeyReader {
 public:
  KeyReader(const Json& object, std::string prefix, std::vector<std::string>& faults)
      : object_(object), prefix_(std::move(prefix)), faults_(faults) {}

  enum class Presence { required, optional };

  void positive(const char* key, int64_t& value, Presence presence, int64_t most = kMostExtent) {
    const Json* found = find(key, presence);
    if (!found) return;
    if (!found->is_number_integer() || found->get<int64_t>() <= 0)
      fault(key, "must be a positive integer", *found);
    else if (found->get<int64_t>() > most)
      fault(key, fmt::format("must be at most {}", most), *found);
    else
      value = found->get<int64_t>();
  }
  void positive(const char* key, double& value) {
    const Json* found = find(key, Presence::optional);
    if (!found) return;
    if (!found->is_number() || !(found->get<double>() > 0))
      fault(key, "must be a positive number", *found);
    else
      value = found->get<double>();
  }
  void boolean(const char* key, bool& value) {
    const Json* found = find(key, Presence::optional);
    if (!found) return;
    if (!found->is_boolean())
      fault(key, "must be true or false", *found);
    else
      value = found->get<bool>();
  }
  void patch(const char* key, std::vector<int64_t>& value) {
    const Json* found = find(key, Presence::required);
    if (!found) return;
    bool good = found->is_array() && found->size() == 3;
    if (good)
      for (const auto& side : *found) good = good && side.is_number_integer() && side.get<int64_t>() > 0;
    if (!good)
      fault(key, "must be three positive integers", *found);
    else
      value = found->get<std::vector<int64_t>>();
  }
  /// A key this program knows one value of (or null, or absence).
  void only(const char* key, const Json& known) {
    const auto found = object_.find(key);
    if (found != object_.end() && !found->is_null() && *found != known)
      fault(
          key,
          known.is_null() ? "must be null (image conditioning is not supported)" : "must be " + known.dump(),
          *found);
  }
  template <class Parse>
  void word(const char* key, Parse parse) {
    const Json* found = find(key, Presence::optional);
    if (!found) return;
    if (!found->is_string()) return fault(key, "must be a word", *found);
    try {
      parse(found->get<std::string>());
    } catch (const Error& error) {
      faults_.push_back(prefix_ + key + ": " + error.what());
    }
  }
  const Json* find(const char* key, Presence presence) {
    const auto found = object_.find(key);
    if (found != object_.end() && !found->is_null()) return &*found;
    if (presence == Presence::required) faults_.push_back(prefix_ + key + " is missing");
    return nullptr;
  }
  void fault(const char* key, const std::string& rule, const Json& value) {
    faults_.push_back(fmt::format("{}{} {}, not {}", prefix_, key, rule, value.dump()));
  }

 private:
  const Json& object_;
  std::string prefix_;
  std::vector<std::string>& faults_;
};

using Presence = KeyReader::Presence;

HybridSettings read_hybrid(const Json& object, int64_t num_layers, std::vector<std::string>& faults) {
  HybridSettings hybrid;
  if (!object.is_object()) {
    faults.push_back("hybrid must be an object");
    return hybrid;
  }
  KeyReader reader(object, "hybrid.", faults);
  if (const Json* rates = reader.find("rates", Presence::required)) {
    if (!rates->is_array() || static_cast<int64_t>(rates->size()) != num_layers) {
      reader.fault("rates", fmt::format("must list one rate for each of the {} blocks", num_layers), *rates);
    } else {
      for (const auto& rate : *rates) try {
          if (!rate.is_number_integer() && !rate.is_string()) fail_usage("must be an integer or \"linear\"");
          hybrid.rates.push_back(Rate::parse(rate.is_string() ? rate.get<std::string>() : rate.dump()));
        } catch (const Error& error) {
          faults.push_back(fmt::format("hybrid.rates: {}: {}", rate.dump(), error.what()));
        }
    }
  }
  reader.positive("phi_degree", hybrid.phi_degree, Presence::required, kMostLayers);
  reader.positive("phi_layers", hybrid.phi_layers, Presence::required, kMostLayers);
  reader.only("phi_hidden_activation", "gelu");
  reader.word("phi_output_activation",
              [&](const std::string& name) { hybrid.phi_output_activation = parse_output_activation(name); });
  reader.word("stabilizer", [&](const std::string& name) { hybrid.stabilizer = parse_stabilizer(name); });
  return hybrid;
}

Json parse_object(const std::string& text, const std::string& where) {
  const Json json = parse_strict_json(text, where);
  VALIDATE(json.is_object(), "{}: not a JSON object: use the config.json that came with the weights", where);
  return json;
}

/// The original Wan2.1's config.json; what it leaves out is a default of wan/modules/model.py.
void read_wan(KeyReader& reader, TransformerConfig& config, std::vector<std::string>& faults) {
  reader.only("model_type", "t2v");
  reader.only("qk_norm", true);
  reader.only("window_size", Json::array({-1, -1}));
  int64_t dim = config.dim();
  reader.positive("dim", dim, Presence::required);
  reader.positive("num_heads", config.num_attention_heads, Presence::required);
  if (dim % config.num_attention_heads != 0)
    faults.push_back(
        fmt::format("dim {} must be a multiple of num_heads {}", dim, config.num_attention_heads));
  config.attention_head_dim = dim / config.num_attention_heads;
  reader.positive("in_dim", config.in_channels, Presence::optional);
  reader.positive("out_dim", config.out_channels, Presence::optional);
  reader.positive("text_dim", config.text_dim, Presence::optional);
  if (reader.find("patch_size", Presence::optional)) reader.patch("patch_size", config.patch_size);
}

void read_diffusers(KeyReader& reader, TransformerConfig& config) {
  reader.only("_class_name", "WanTransformer3DModel");
  reader.positive("num_attention_heads", config.num_attention_heads, Presence::required);
  reader.positive("attention_head_dim", config.attention_head_dim, Presence::required);
  reader.positive("in_channels", config.in_channels, Presence::required);
  config.out_channels = config.in_channels;  // null means the same in diffusers
  reader.positive("out_channels", config.out_channels, Presence::optional);
  reader.positive("text_dim", config.text_dim, Presence::required);
  reader.patch("patch_size", config.patch_size);
  reader.only("qk_norm", "rms_norm_across_heads");
  for (const char* image_only : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"})
    reader.only(image_only, nullptr);
}

nlohmann::ordered_json hybrid_json(const HybridSettings& hybrid) {
  auto rates = nlohmann::ordered_json::array();
  for (const Rate rate : hybrid.rates) {
    if (rate.is_linear())
      rates.push_back("linear");
    else
      rates.push_back(rate.stride());
  }
  return {{"rates", rates},
          {"phi_degree", hybrid.phi_degree},
          {"phi_layers", hybrid.phi_layers},
          {"phi_hidden_activation", "gelu"},
          {"phi_output_activation", to_string(hybrid.phi_output_activation)},
          {"stabilizer", to_string(hybrid.stabilizer)}};
}

}  // namespace

TransformerConfig TransformerConfig::from_json(const std::string& text, const std::string& where) {
  const Json json = parse_object(text, where);
  std::vector<std::string> faults;
  KeyReader reader(json, "", faults);
  TransformerConfig config;
  reader.positive("num_layers", config.num_layers, Presence::required, kMostLayers);
  if (json.value("_class_name", Json()) == "WanModel")
    read_wan(reader, config, faults);
  else
    read_diffusers(reader, config);
  reader.positive("ffn_dim", config.ffn_dim, Presence::required);
  reader.positive("freq_dim", config.freq_dim, Presence::required);
  reader.positive("rope_max_seq_len", config.rope_max_seq_len, Presence::optional);
  reader.positive("eps", config.eps);
  reader.boolean("cross_attn_norm", config.cross_attn_norm);
  if (config.attention_head_dim < 6 || config.attention_head_dim % 2 != 0)
    faults.push_back(fmt::format(
        "attention_head_dim must be even and at least 6 (RoPE splits it among three axes), not {}",
        config.attention_head_dim));
  if (config.freq_dim % 2 != 0)
    faults.push_back(fmt::format("freq_dim must be even, not {}", config.freq_dim));
  if (const Json* hybrid = reader.find("hybrid", Presence::optional))
    config.hybrid = read_hybrid(*hybrid, config.num_layers, faults);
  if (!faults.empty())
    fail_data(
        "{}: {} (not a Wan2.1 text-to-video transformer's configuration): use the config.json that came with "
        "the "
        "weights",
        where, fmt::join(faults, "; "));
  return config;
}

std::string TransformerConfig::to_json() const {
  nlohmann::ordered_json json;
  json["_class_name"] = "WanTransformer3DModel";
  json["added_kv_proj_dim"] = nullptr;
  json["attention_head_dim"] = attention_head_dim;
  json["cross_attn_norm"] = cross_attn_norm;
  json["eps"] = eps;
  json["ffn_dim"] = ffn_dim;
  json["freq_dim"] = freq_dim;
  json["image_dim"] = nullptr;
  json["in_channels"] = in_channels;
  json["num_attention_heads"] = num_attention_heads;
  json["num_layers"] = num_layers;
  json["out_channels"] = out_channels;
  json["patch_size"] = patch_size;
  json["pos_embed_seq_len"] = nullptr;
  json["qk_norm"] = "rms_norm_across_heads";
  json["rope_max_seq_len"] = rope_max_seq_len;
  json["text_dim"] = text_dim;
  if (hybrid) json["hybrid"] = hybrid_json(*hybrid);
  return json.dump(2) + "\n";
}

std::string TransformerConfig::to_wan_json(int64_t text_length) const {
  const TransformerConfig usual;
  nlohmann::ordered_json json;
  json["_class_name"] = "WanModel";
  json["dim"] = dim();
  json["eps"] = eps;
  json["ffn_dim"] = ffn_dim;
  json["freq_dim"] = freq_dim;
  json["in_dim"] = in_channels;
  json["model_type"] = "t2v";
  json["num_heads"] = num_attention_heads;
  json["num_layers"] = num_layers;
  json["out_dim"] = out_channels;
  json["text_len"] = text_length;
  // Wan's own file leaves these to the defaults of its code.
  if (text_dim != usual.text_dim) json["text_dim"] = text_dim;
  if (patch_size != usual.patch_size) json["patch_size"] = patch_size;
  if (!cross_attn_norm) json["cross_attn_norm"] = false;
  if (rope_max_seq_len != usual.rope_max_seq_len) json["rope_max_seq_len"] = rope_max_seq_len;
  if (hybrid) json["hybrid"] = hybrid_json(*hybrid);
  return json.dump(2) + "\n";
}

FeatureMapConfig TransformerConfig::feature_map() const {
  FeatureMapConfig phi;
  phi.heads = num_attention_heads;
  phi.head_dim = attention_head_dim;
  if (hybrid) {
    phi.degree = hybrid->phi_degree;
    phi.layers = hybrid->phi_layers;
    phi.output_activation = hybrid->phi_output_activation;
  }
  return phi;
}

}  // namespace surgery
