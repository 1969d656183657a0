#include "data/inspect_model.h"

#include <fmt/ranges.h>

#include "base/errors.h"
#include "storage/dtype.h"
#include "wan/checkpoint.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {
namespace {

using Json = nlohmann::ordered_json;

/// A folder may hold files that are no part, or several of one: then it is only a folder.
std::optional<PartFiles> part_there(ModelPart part, const std::filesystem::path& folder) {
  try {
    return find_part(part, folder);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string sizes_of(const TransformerConfig& config) {
  std::string text = fmt::format("{} blocks of {} heads of {}, feed-forward {}", config.num_layers,
                                 config.num_attention_heads, config.attention_head_dim, config.ffn_dim);
  if (!config.hybrid) return text;
  std::map<Rate, int64_t> blocks;
  for (const Rate& rate : config.hybrid->rates) ++blocks[rate];
  std::vector<std::string> rates;
  for (const auto& [rate, count] : blocks) rates.push_back(fmt::format("{} at {}", count, rate.name()));
  return text + fmt::format("; rates: {}", fmt::join(rates, ", "));
}

/// Loading checks names and shapes against the configuration.
std::string checked_sizes(ModelPart part, const std::filesystem::path& folder) {
  if (part == ModelPart::transformer) return sizes_of(Transformer::load(folder).config());
  if (part == ModelPart::vae) {
    const VaeConfig config = Vae::load(folder).config();
    return fmt::format("width {} x {}, {} latent channels", config.base_dim, fmt::join(config.dim_mult, "-"),
                       config.z_dim);
  }
  const TextEncoderConfig config = TextEncoder::load(folder).config();
  return fmt::format("{} layers of {} heads, width {}, {} tokens", config.num_layers, config.num_heads,
                     config.d_model, config.vocab_size);
}

Json part_row(const PartFiles& files, const std::filesystem::path& folder) {
  int64_t parameters = 0, bytes = 0;
  std::map<std::string, int64_t> types;
  const TensorMap tensors = read_part(files);
  for (const auto& [name, tensor] : tensors) {
    parameters += tensor.numel();
    bytes += static_cast<int64_t>(tensor.numel() * tensor.element_size());
    types[dtype_name(from_torch(tensor.scalar_type()))] += 1;
  }
  std::vector<std::string> dtypes;
  for (const auto& [type, count] : types)
    dtypes.push_back(types.size() == 1 ? type : fmt::format("{} {}", count, type));
  return {{"part", to_string(files.part)},
          {"layout", (files.naming == Naming::wan ? "wan" : "diffusers") +
                         (files.prefix.empty() ? "" : " behind " + files.prefix)},
          {"files", files.weights.size()},
          {"tensors", tensors.size()},
          {"parameters", parameters},
          {"bytes", bytes},
          {"dtype", dtypes},
          {"sizes", checked_sizes(files.part, folder)},
          {"place", files.place().lexically_relative(folder).string()}};
}

}  // namespace

std::optional<Json> inspect_model(const std::filesystem::path& folder) {
  Json parts = Json::array();
  for (const ModelPart part : {ModelPart::transformer, ModelPart::vae, ModelPart::text_encoder})
    if (const auto files = part_there(part, folder)) parts.push_back(part_row(*files, folder));
  const bool has_tokenizer = std::filesystem::exists(find_tokenizer(folder) / "spiece.model");
  if (parts.empty() && !has_tokenizer) return std::nullopt;
  Json model{{"kind", parts.empty() ? "tokenizer" : "model"}};
  if (!parts.empty()) model["parts"] = parts;
  if (has_tokenizer) {
    const Tokenizer tokenizer = Tokenizer::load(folder);
    model["tokenizer"] =
        fmt::format("{} pieces, texts of {} tokens", tokenizer.vocab_size(), tokenizer.max_length());
  }
  return model;
}

}  // namespace surgery
