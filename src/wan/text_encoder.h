#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/tensor.h"
#include "storage/tensor_store.h"
#include "wan/block_stream.h"
#include "wan/weights_writer.h"

namespace surgery {

/// text_encoder/config.json (transformers' UMT5EncoderModel).
struct TextEncoderConfig {
  int64_t vocab_size = 256384, d_model = 4096, d_kv = 64, d_ff = 10240, num_layers = 24, num_heads = 64;
  int64_t relative_attention_num_buckets = 32, relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  static TextEncoderConfig from_json(const std::string& text, const std::string& where);
  std::string to_json() const;
};

/// Bucket of the distance `relative` = key - query (both directions, logarithmic beyond a quarter of the
/// buckets).
int64_t relative_position_bucket(int64_t relative, int64_t buckets, int64_t max_distance);

/// Writes config.json and weights into `folder`; `parameters` under our names. Error{io}.
void save_text_encoder(const TextEncoderConfig& config, const LazyTensors& parameters,
                       const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as = {});

/// umT5 encoder (transformers' UMT5EncoderModel), parameters under the Hugging Face names.
class TextEncoder {
 public:
  TextEncoder(TextEncoderConfig config, TensorMap parameters);
  /// From wherever find_part (wan/checkpoint.h) finds it, in any layout; tensors in the dtype of the file,
  /// mapped.
  static TextEncoder load(const std::filesystem::path& where);
  /// Its configuration alone; no weights are needed where a text_encoder/config.json tells it.
  static TextEncoderConfig read_config(const std::filesystem::path& where);
  /// Initial weights (wan/initial_weights.h).
  static TextEncoder random(const TextEncoderConfig& config, RandomKey key);
  void save(const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as = {}) const;
  const TextEncoderConfig& config() const { return config_; }
  TensorMap& parameters() { return parameters_; }
  void to(at::Device device, at::ScalarType dtype);
  /// From now on layers and embedding stay as they are, mapped as `load` gives them; every forward converts
  /// them a layer at a time, of the embedding the rows it needs. One forward at a time.
  void stream();
  /// input_ids, attention_mask int64 [B, L] -> last_hidden_state [B, L, d_model]. Rows behind the longest
  /// text are not computed and are zero, as Wan's pipelines make them; a mask without a token is Error{data}.
  at::Tensor forward(const at::Tensor& input_ids, const at::Tensor& attention_mask) const;

 private:
  void stream_to(at::Device device, at::ScalarType dtype);

  TextEncoderConfig config_;
  TensorMap parameters_;
  std::shared_ptr<BlockStream> stream_;  ///< none: every parameter is converted already
};

/// Every parameter's name (transformers') and shape at a configuration.
std::map<std::string, std::vector<int64_t>> text_encoder_parameter_shapes(const TextEncoderConfig& config);

/// Wan's text cleaning (its own tokenizer's and diffusers'): fix_text (wan/fix_text.h), HTML-unescape twice,
/// collapse whitespace, strip. Error{data} if not UTF-8.
std::string clean_prompt(const std::string& prompt);

/// SentencePiece unigram with Wan's contract: clean, encode, append EOS (1), truncate to model_max_length
/// incl. EOS. The ids are those of transformers' fast tokenizer (what differs: tokenizer.cpp).
class Tokenizer {
 public:
  /// spiece.model and tokenizer_config.json, from a folder that holds tokenizer/ or google/umt5-xxl/ (the
  /// original layout), or from the tokenizer's own.
  static Tokenizer load(const std::filesystem::path& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  std::vector<int64_t> encode(const std::string& prompt) const;  ///< without padding
  int64_t max_length() const;
  int64_t vocab_size() const;  ///< number of pieces; an encoder's table may have more rows

 private:
  Tokenizer();
  struct State;
  std::unique_ptr<State> state_;
};

/// model_max_length of the tokenizer_config.json there; 512, Wan's own, where it was saved without a limit.
int64_t tokenizer_max_length(const std::filesystem::path& folder);

/// Trains a SentencePiece unigram model on lines (ids pad 0, eos 1, bos 2, unk 3) and writes a folder that
/// transformers' AutoTokenizer loads too. Few lines may give fewer pieces than `vocab_size`. Equal lines give
/// equal files. `words` become one piece each where they follow a space, whatever the training thinks of
/// them: on a small corpus it cuts even frequent words into letters.
void train_tokenizer(const std::vector<std::string>& lines, int64_t vocab_size, int64_t max_length,
                     const std::filesystem::path& folder, const std::vector<std::string>& words = {});

/// Embeds a prompt: tokenise, encode, the n real rows [n, d_model] fp32 CPU.
at::Tensor embed_prompt(const Tokenizer& tokenizer, const TextEncoder& encoder, const std::string& prompt);
/// Rows [n, dim] padded with exact zeros to [1, length, dim].
at::Tensor pad_text(const at::Tensor& rows, int64_t length);

}  // namespace surgery
