#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/strict_json.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

using Json = nlohmann::json;

// Far above any text encoder of this family; they keep a damaged file from asking for endless work or memory.
constexpr int64_t kMostLayers = 4096, kMostExtent = int64_t{1} << 24;

void read_extent(const Json& json, const char* key, const std::string& where, int64_t& value,
                 int64_t most = kMostExtent) {
  if (!json.contains(key)) return;
  VALIDATE(json[key].is_number_integer() && json[key].get<int64_t>() > 0 && json[key].get<int64_t>() <= most,
           "{}: {} is {}: must be a positive whole number of at most {}", where, key, json[key].dump(), most);
  value = json[key].get<int64_t>();
}

}  // namespace

TextEncoderConfig TextEncoderConfig::from_json(const std::string& text, const std::string& where) {
  const Json json = parse_strict_json(text, where);
  VALIDATE(json.is_object(), "{}: is no JSON object (damaged file): download it again", where);
  VALIDATE(
      json.value("model_type", Json("umt5")) == "umt5",
      "{}: model_type is {}, only umt5 is built (each layer its own position bias): name a umT5 text encoder",
      where, json["model_type"].dump());
  VALIDATE(json.value("feed_forward_proj", Json("gated-gelu")) == "gated-gelu",
           "{}: feed_forward_proj is {}, only gated-gelu is built", where, json["feed_forward_proj"].dump());
  TextEncoderConfig config;
  for (const char* key : {"vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"})
    VALIDATE(json.contains(key), "{}: {} is missing (not a text encoder's config.json?)", where, key);
  read_extent(json, "vocab_size", where, config.vocab_size);
  read_extent(json, "d_model", where, config.d_model);
  read_extent(json, "d_kv", where, config.d_kv);
  read_extent(json, "d_ff", where, config.d_ff);
  read_extent(json, "num_layers", where, config.num_layers, kMostLayers);
  read_extent(json, "num_heads", where, config.num_heads);
  read_extent(json, "relative_attention_num_buckets", where, config.relative_attention_num_buckets);
  read_extent(json, "relative_attention_max_distance", where, config.relative_attention_max_distance);
  VALIDATE(config.relative_attention_num_buckets % 4 == 0 &&
               config.relative_attention_max_distance > config.relative_attention_num_buckets / 4,
           "{}: {} buckets to distance {} cannot be told apart: must be a multiple of 4, the distance above "
           "a quarter",
           where, config.relative_attention_num_buckets, config.relative_attention_max_distance);
  const Json epsilon = json.value("layer_norm_epsilon", Json(config.layer_norm_epsilon));
  VALIDATE(epsilon.is_number() && epsilon.get<double>() > 0, "{}: layer_norm_epsilon is {}: must be positive",
           where, epsilon.dump());
  config.layer_norm_epsilon = epsilon.get<double>();
  return config;
}

std::string TextEncoderConfig::to_json() const {
  const Json json{{"architectures", {"UMT5EncoderModel"}},
                  {"model_type", "umt5"},
                  {"vocab_size", vocab_size},
                  {"d_model", d_model},
                  {"d_kv", d_kv},
                  {"d_ff", d_ff},
                  {"num_layers", num_layers},
                  {"num_heads", num_heads},
                  {"relative_attention_num_buckets", relative_attention_num_buckets},
                  {"relative_attention_max_distance", relative_attention_max_distance},
                  {"layer_norm_epsilon", layer_norm_epsilon},
                  {"feed_forward_proj", "gated-gelu"},
                  {"dropout_rate", 0.0},
                  {"is_encoder_decoder", true},
                  {"tie_word_embeddings", true},
                  {"pad_token_id", 0},
                  {"eos_token_id", 1}};
  return json.dump(2) + "\n";
}

}  // namespace surgery
