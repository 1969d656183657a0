#pragma once
#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "storage/tensor_store.h"

namespace surgery {

/// text_encoder/config.json (transformers' UMT5EncoderModel).
struct TextEncoderConfig {
  int64_t vocab_size = 256384, d_model = 4096, d_kv = 64, d_ff = 10240, num_layers = 24, num_heads = 64;
  int64_t relative_attention_num_buckets = 32, relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  static TextEncoderConfig from_json(const std::string& text, const std::string& where);
  std::string to_json() const;
};

/// umT5 encoder (spec wan21.md 4), parameters under the Hugging Face names.
class TextEncoder {
 public:
  TextEncoder(TextEncoderConfig config, TensorMap parameters);
  static TextEncoder load(const std::filesystem::path& folder);
  static TextEncoder random(const TextEncoderConfig& config, RandomKey key);
  void save(const std::filesystem::path& folder, at::ScalarType dtype) const;
  const TextEncoderConfig& config() const { return config_; }
  TensorMap& parameters() { return parameters_; }
  void to(at::Device device, at::ScalarType dtype);
  /// input_ids, attention_mask int64 [B, L] -> last_hidden_state [B, L, d_model].
  at::Tensor forward(const at::Tensor& input_ids, const at::Tensor& attention_mask) const;

 private:
  TextEncoderConfig config_;
  TensorMap parameters_;
};

/// Wan's text cleaning (spec 4.4): HTML-unescape twice, collapse whitespace, strip. Error{data} if not UTF-8.
std::string clean_prompt(const std::string& prompt);

/// SentencePiece unigram with Wan's contract: clean, encode, append EOS (1), truncate to model_max_length incl. EOS.
class Tokenizer {
 public:
  static Tokenizer load(const std::filesystem::path& folder);  ///< spiece.model + tokenizer_config.json
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  std::vector<int64_t> encode(const std::string& prompt) const;  ///< without padding
  int64_t max_length() const;

 private:
  Tokenizer();
  struct State;
  std::unique_ptr<State> state_;
};

/// Trains a SentencePiece unigram model on lines (ids pad 0, eos 1, bos 2, unk 3) and writes a tokenizer/ folder.
void train_tokenizer(const std::vector<std::string>& lines, int64_t vocab_size, int64_t max_length,
                     const std::filesystem::path& folder);

/// Embeds a prompt: tokenise, encode, the n real rows [n, d_model] fp32 CPU.
at::Tensor embed_prompt(const Tokenizer& tokenizer, const TextEncoder& encoder, const std::string& prompt);
/// Rows [n, dim] padded with exact zeros to [1, length, dim].
at::Tensor pad_text(const at::Tensor& rows, int64_t length);

}  // namespace surgery
