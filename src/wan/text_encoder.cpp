#include "wan/text_encoder.h"

#include <fmt/ostream.h>

#include <array>
#include <cmath>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "wan/checkpoint.h"
#include "wan/sizes_from_tensors.h"
#include "wan/tensor_names.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
constexpr const char* kEmbedding = "shared.weight";
constexpr const char* kTiedEmbedding = "encoder.embed_tokens.weight";
constexpr const char* kFinalNorm = "encoder.final_layer_norm.weight";

std::string block_name(int64_t layer, int part, std::string_view name) {
  return fmt::format("encoder.block.{}.layer.{}.{}.weight", layer, part, name);
}

/// Without what other programs keep beside the encoder: the tied copy of the embedding, a decoder, and the
/// tokenizer's model of ComfyUI's files.
TensorMap without_unused(TensorMap tensors) {
  if (const auto tied = tensors.find(kTiedEmbedding); tied != tensors.end()) {
    tensors.emplace(kEmbedding, tied->second);
    tensors.erase(tied);
  }
  std::erase_if(tensors, [](const auto& item) {
    return item.first.starts_with("decoder.") || item.first.starts_with("lm_head.") ||
           item.first == "spiece_model";
  });
  return tensors;
}

TextEncoderConfig config_of(const PartFiles& files, const TensorMap& tensors) {
  return part_config<TextEncoderConfig>(files, [&](const std::string& where) {
    return text_encoder_sizes(without_unused(tensors), files.naming, where);
  });
}

/// x over its root mean square, statistics in fp32, rounded once to the weight's dtype.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, true) + epsilon);
  return (wide * scale).to(weight.scalar_type()) * weight;
}

/// Length of the longest text: behind it every text of the batch is masked.
int64_t longest_text(const at::Tensor& attention_mask) {
  const at::Tensor columns = attention_mask.ne(0).any(0).nonzero();
  VALIDATE(columns.numel() > 0, "text encoder: attention_mask has no token, only padding");
  return columns[-1].item<int64_t>() + 1;
}

/// Bucket of each distance key - query from 1 - length to length - 1, int64 [2 length - 1] on the host.
at::Tensor relative_buckets(int64_t length, const TextEncoderConfig& config) {
  at::Tensor buckets = at::empty({2 * length - 1}, at::kLong);
  auto bucket = buckets.accessor<int64_t, 1>();
  for (int64_t i = 0; i < buckets.numel(); ++i)
    bucket[i] = relative_position_bucket(i - (length - 1), config.relative_attention_num_buckets,
                                         config.relative_attention_max_distance);
  return buckets;
}

/// The bias of every query and key [1, heads, length, length] from a table [buckets, heads]: a query's keys
/// are a window of the row of distances, the last query's the first.
at::Tensor relative_bias(const at::Tensor& table, const at::Tensor& buckets, int64_t length) {
  return at::embedding(table, buckets).t().contiguous().unfold(1, length, 1).flip(1).unsqueeze(0);
}

}  // namespace

std::map<std::string, std::vector<int64_t>> text_encoder_parameter_shapes(const TextEncoderConfig& config) {
  const int64_t inner = config.num_heads * config.d_kv;
  std::map<std::string, std::vector<int64_t>> shapes{{kEmbedding, {config.vocab_size, config.d_model}},
                                                     {kFinalNorm, {config.d_model}}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const char* name : {"q", "k", "v"})
      shapes[block_name(layer, 0, fmt::format("SelfAttention.{}", name))] = {inner, config.d_model};
    shapes[block_name(layer, 0, "SelfAttention.o")] = {config.d_model, inner};
    shapes[block_name(layer, 0, "SelfAttention.relative_attention_bias")] = {
        config.relative_attention_num_buckets, config.num_heads};
    shapes[block_name(layer, 0, "layer_norm")] = {config.d_model};
    for (const char* name : {"wi_0", "wi_1"})
      shapes[block_name(layer, 1, fmt::format("DenseReluDense.{}", name))] = {config.d_ff, config.d_model};
    shapes[block_name(layer, 1, "DenseReluDense.wo")] = {config.d_model, config.d_ff};
    shapes[block_name(layer, 1, "layer_norm")] = {config.d_model};
  }
  return shapes;
}

int64_t relative_position_bucket(int64_t relative, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  const int64_t side = relative > 0 ? half : 0, distance = std::abs(relative);
  if (distance < exact) return side + distance;
  if (buckets == 32 && max_distance == 128) {
    // First distance of buckets 9 to 15. As a table: 16, 32 and 64 lie exactly on the logarithm's steps.
    constexpr std::array<int64_t, 7> kFirst{12, 16, 23, 32, 46, 64, 91};
    int64_t bucket = 8;
    for (const int64_t first : kFirst) bucket += distance >= first;
    return side + bucket;
  }
  const double position = std::log(static_cast<double>(distance) / static_cast<double>(exact)) /
                          std::log(static_cast<double>(max_distance) / static_cast<double>(exact)) *
                          static_cast<double>(half - exact);
  // Distances that lie on a step must not fall below it by rounding.
  return side + std::min(half - 1, exact + static_cast<int64_t>(std::floor(position + 1e-6)));
}

TextEncoder::TextEncoder(TextEncoderConfig config, TensorMap parameters)
    : config_(config), parameters_(without_unused(std::move(parameters))) {
  check_parameters("text encoder", text_encoder_parameter_shapes(config_), parameters_);
}

TextEncoder TextEncoder::load(const fs::path& where) {
  const PartFiles files = require_part(ModelPart::text_encoder, where);
  TensorMap tensors = without_unused(read_part(files));
  const TextEncoderConfig config = config_of(files, tensors);
  return TextEncoder(config, to_our_names(files, std::move(tensors), text_encoder_names(config),
                                          text_encoder_parameter_shapes(config)));
}

TextEncoderConfig TextEncoder::read_config(const fs::path& where) {
  return read_part_config<TextEncoderConfig>(ModelPart::text_encoder, where, config_of);
}

void save_text_encoder(const TextEncoderConfig& config, const LazyTensors& parameters, const fs::path& folder,
                       at::ScalarType dtype, const SaveAs& as) {
  const PartContent content{parameters, [dtype](const auto&) { return dtype; }, config.to_json(),
                            config.to_json()};
  save_part(ModelPart::text_encoder, text_encoder_names(config), content, folder, as);
}

void TextEncoder::save(const fs::path& folder, at::ScalarType dtype, const SaveAs& as) const {
  save_text_encoder(config_, lazy(parameters_), folder, dtype, as);
}

void TextEncoder::to(at::Device device, at::ScalarType dtype) {
  for (auto& [name, tensor] : parameters_)
    if (!stream_ || name == kFinalNorm) tensor = tensor.to(device, dtype);
  if (stream_) stream_to(device, dtype);
}

void TextEncoder::stream_to(at::Device device, at::ScalarType dtype) {
  stream_ = std::make_shared<BlockStream>(
      tensors_by_block(parameters_, "encoder.block.", config_.num_layers, [](const auto&) { return true; }),
      device, [dtype](const auto&) { return dtype; });
}

void TextEncoder::stream() {
  const at::Tensor& norm = parameters_.at(kFinalNorm);
  stream_to(norm.device(), norm.scalar_type());
}

at::Tensor TextEncoder::forward(const at::Tensor& padded_ids, const at::Tensor& padded_mask) const {
  VALIDATE(padded_ids.dim() == 2 && padded_ids.scalar_type() == at::kLong &&
               padded_ids.sizes() == padded_mask.sizes(),
           "text encoder: input_ids {} and attention_mask {} must both be int64 [batch, length]",
           fmt::streamed(padded_ids.sizes()), fmt::streamed(padded_mask.sizes()));
  VALIDATE(padded_ids.numel() > 0 && padded_ids.min().item<int64_t>() >= 0 &&
               padded_ids.max().item<int64_t>() < config_.vocab_size,
           "text encoder: input_ids reach from {} to {}, the vocabulary has {} (tokenizer of another model?)",
           padded_ids.numel() > 0 ? padded_ids.min().item<int64_t>() : 0,
           padded_ids.numel() > 0 ? padded_ids.max().item<int64_t>() : 0, config_.vocab_size);
  const int64_t batch = padded_ids.size(0), length = longest_text(padded_mask);
  const at::Tensor input_ids = padded_ids.slice(1, 0, length),
                   attention_mask = padded_mask.slice(1, 0, length);
  const at::Tensor &embedding = parameters_.at(kEmbedding), &norm = parameters_.at(kFinalNorm);
  const at::Tensor buckets = relative_buckets(length, config_).to(norm.device());
  at::Tensor masked;  // where a text is shorter than the longest
  if (!attention_mask.all().item<bool>())
    masked = (attention_mask.to(norm.device()) == 0).reshape({batch, 1, 1, length});
  const auto heads =
      [&](const at::Tensor& x) {  // [batch, length, heads * d_kv] -> [batch, heads, length, d_kv]
        return x.view({batch, length, config_.num_heads, config_.d_kv}).transpose(1, 2);
      };
  at::Tensor x = at::embedding(embedding, input_ids.to(embedding.device())).to(norm.options());
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const BlockStream::Block held = stream_ ? stream_->get(layer, (layer + 1) % config_.num_layers)
                                            : BlockStream::Block(BlockStream::Block(), &parameters_);
    const auto weight = [&](int part, std::string_view name) {
      return held->at(block_name(layer, part, name));
    };
    at::Tensor a = rms_norm(x, weight(0, "layer_norm"), config_.layer_norm_epsilon);
    const at::Tensor q = heads(at::linear(a, weight(0, "SelfAttention.q")));
    const at::Tensor k = heads(at::linear(a, weight(0, "SelfAttention.k")));
    const at::Tensor v = heads(at::linear(a, weight(0, "SelfAttention.v")));
    // umT5 does not scale by 1/sqrt(d_kv), and every layer has a bias table of its own (T5 shares the first
    // one's).
    const at::Tensor bias =
        relative_bias(weight(0, "SelfAttention.relative_attention_bias"), buckets, length);
    // The scores stay in fp32 up to the softmax, as in transformers' fused attention: rounded to bf16
    // first they make the error of two layers 1.3 times as large. In place: at the full size every copy of
    // them is 64 MiB a prompt.
    at::Tensor scores = at::matmul(q.to(at::kFloat), k.transpose(-1, -2).to(at::kFloat)).add_(bias);
    if (masked.defined()) scores.masked_fill_(masked, std::numeric_limits<float>::lowest());
    const at::Tensor mixed = at::matmul(at::softmax(scores, -1).to(v.scalar_type()), v);
    x = x + at::linear(mixed.transpose(1, 2).reshape({batch, length, -1}), weight(0, "SelfAttention.o"));
    a = rms_norm(x, weight(1, "layer_norm"), config_.layer_norm_epsilon);
    const at::Tensor gate = at::gelu(at::linear(a, weight(1, "DenseReluDense.wi_0")), "tanh");
    x = x +
        at::linear(gate * at::linear(a, weight(1, "DenseReluDense.wi_1")), weight(1, "DenseReluDense.wo"));
  }
  return at::constant_pad_nd(rms_norm(x, norm, config_.layer_norm_epsilon),
                             {0, 0, 0, padded_ids.size(1) - length});
}

at::Tensor embed_prompt(const Tokenizer& tokenizer, const TextEncoder& encoder, const std::string& prompt) {
  // The real tokens alone give what a padded, masked run gives for them: the bias is relative, pads get no
  // weight.
  const at::NoGradGuard no_grad;
  const at::Tensor ids = at::tensor(tokenizer.encode(prompt), at::kLong).unsqueeze(0);
  return encoder.forward(ids, at::ones_like(ids)).squeeze(0).to(at::kCPU, at::kFloat);
}

at::Tensor pad_text(const at::Tensor& rows, int64_t length) {
  VALIDATE(rows.dim() == 2 && rows.size(0) <= length, "text of {} rows does not fit in {}: encode it again",
           rows.size(0), length);
  return at::constant_pad_nd(rows, {0, 0, 0, length - rows.size(0)}).unsqueeze(0);
}

}  // namespace surgery
