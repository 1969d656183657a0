#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "base/errors.h"
#include "storage/atomic_file.h"
#include "storage/strict_json.h"
#include "wan/checkpoint.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kModel = "spiece.model";
constexpr const char* kFast = "tokenizer.json";
constexpr const char* kConfig = "tokenizer_config.json";
constexpr int64_t kWanLength = 512;

}  // namespace

int64_t tokenizer_max_length(const fs::path& folder) {
  const fs::path path = find_tokenizer(folder) / kConfig;
  const Json config = read_json_file(path.string());
  VALIDATE(config.is_object(), "{}: is no JSON object (damaged file): download it again", path.string());
  const Json length = config.value("model_max_length", Json(kWanLength));
  VALIDATE(length.is_number() && length.get<double>() >= 1,
           "{}: model_max_length is {} (the text's length in tokens): set a positive number", path.string(),
           length.dump());
  return length.get<double>() > 1e6 ? kWanLength : length.get<int64_t>();
}

namespace {

/// SentencePiece reads its sentences from here.
class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return next_ == lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t next_ = 0;
};

std::string train_model(const std::vector<std::string>& lines, int64_t vocab_size,
                        const std::vector<std::string>& words) {
  std::string whole;
  for (const auto& word : words) whole += (whole.empty() ? "\u2581" : ",\u2581") + word;
  std::unordered_map<std::string, std::string> settings{
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(vocab_size)},
      {"pad_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "2"},
      {"unk_id", "3"},
      {"character_coverage", "1.0"},
      {"hard_vocab_limit", "false"},  // a small corpus may not have that many pieces
      {"num_threads", "1"},           // the order of its sums, and so the model, depends on it
      {"shuffle_input_sentence", "false"},
      {"minloglevel", "2"},
  };
  if (!whole.empty()) settings["user_defined_symbols"] = whole;
  std::string model;
  LineIterator iterator(lines);
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &iterator, &model);
  VALIDATE(status.ok(), "tokenizer cannot be trained on {} lines with {} pieces: {}", lines.size(),
           vocab_size, status.ToString());
  return model;
}

}  // namespace

struct Tokenizer::State {
  sentencepiece::SentencePieceProcessor processor;
  int64_t max_length = kWanLength;
  bool bytes = false;  ///< what no piece holds becomes its bytes' pieces, not one unknown piece
};

namespace {

/// Whether the encoder was trained with bytes for what no piece holds. spiece.model alone does not tell: Wan
/// and diffusers read tokenizer.json, and transformers' conversion of such a model leaves the bytes out.
bool keeps_bytes(const sentencepiece::SentencePieceProcessor& processor, const fs::path& folder) {
  bool any = false;
  for (int id = 0; id < processor.GetPieceSize() && !any; ++id) any = processor.IsByte(id);
  std::error_code error;
  if (!any || !fs::exists(folder / kFast, error)) return false;
  const Json fast = read_json_file((folder / kFast).string());
  VALIDATE(fast.is_object() && fast.contains("model") && fast["model"].is_object(),
           "{}: describes no model (damaged or foreign file): download it again", (folder / kFast).string());
  return fast["model"].value("byte_fallback", Json(false)) == true;
}

/// Whether a serialised SentencePiece model has its pieces, and behind them its trainer's and its
/// normaliser's settings. A file that ends between two pieces is a well-formed message too, without the
/// characters' map.
bool is_whole_model(const std::string& bytes) {
  std::set<uint64_t> fields;
  size_t at = 0;
  const auto number = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < bytes.size() && shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes[at++]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < bytes.size()) {
    const uint64_t key = number(), length = number();
    if (key % 8 == 0) continue;  // a plain number, the one just read
    if (key % 8 != 2 || length > bytes.size() - at) break;
    fields.insert(key / 8);
    at += length;
  }
  constexpr uint64_t kPieces = 1, kTrainer = 2, kNormalizer = 3;
  return fields.contains(kPieces) && fields.contains(kTrainer) && fields.contains(kNormalizer);
}

}  // namespace

Tokenizer::Tokenizer() : state_(std::make_unique<State>()) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const fs::path& folder) {
  const fs::path inside = find_tokenizer(folder);
  Tokenizer tokenizer;
  State& state = *tokenizer.state_;
  state.max_length = tokenizer_max_length(inside);
  const std::string model = read_file(inside / kModel);
  const auto status = state.processor.LoadFromSerializedProto(model);
  VALIDATE(status.ok(), "{}: not a SentencePiece model (damaged or foreign file): download it again ({})",
           (inside / kModel).string(), status.ToString());
  VALIDATE(is_whole_model(model), "{}: ends before its settings (truncated file): download it again",
           (inside / kModel).string());
  VALIDATE(state.processor.eos_id() > 0,
           "{}: has no end-of-sequence piece (the encoder was trained with one): take the tokenizer of the "
           "text encoder",
           (inside / kModel).string());
  state.bytes = keeps_bytes(state.processor, inside);
  return tokenizer;
}

// transformers' fast tokenizer differs in three ways. "</s>", "<pad>" or "<extra_id_0>" written in a prompt
// are tokens there, and text here. A written U+2581 is a space there. And of two orders of the same pieces
// ("..", "." and ".", ".."), equally likely, this library takes the one that rounding in fp32 favours.
std::vector<int64_t> Tokenizer::encode(const std::string& prompt) const {
  std::vector<int> pieces;
  const auto status = state_->processor.Encode(clean_prompt(prompt), &pieces);
  VALIDATE(status.ok(), "prompt cannot be tokenised: {}", status.ToString());
  std::vector<int64_t> ids;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool byte = !state_->bytes && state_->processor.IsByte(pieces[i]);
    if (!byte) ids.push_back(pieces[i]);
    if (byte && (i == 0 || !state_->processor.IsByte(pieces[i - 1])))
      ids.push_back(state_->processor.unk_id());  // one for the whole stretch
  }
  ids.resize(std::min(ids.size(), static_cast<size_t>(state_->max_length - 1)));
  ids.push_back(state_->processor.eos_id());
  return ids;
}

int64_t Tokenizer::max_length() const {
  return state_->max_length;
}
int64_t Tokenizer::vocab_size() const {
  return state_->processor.GetPieceSize();
}

void train_tokenizer(const std::vector<std::string>& lines, int64_t vocab_size, int64_t max_length,
                     const fs::path& folder, const std::vector<std::string>& words) {
  std::vector<std::string> cleaned;
  for (const std::string& line : lines) cleaned.push_back(clean_prompt(line));
  const std::string model = train_model(cleaned, vocab_size, words);
  // What transformers' T5Tokenizer wants to know; extra_ids are T5's sentinels, of which this model has none.
  const Json config{{"tokenizer_class", "T5Tokenizer"},
                    {"model_max_length", max_length},
                    {"pad_token", "<pad>"},
                    {"eos_token", "</s>"},
                    {"unk_token", "<unk>"},
                    {"extra_ids", 0},
                    {"legacy", false},
                    {"clean_up_tokenization_spaces", false}};
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_io("{}: cannot be made: {}", folder.string(), error.message());
  write_file(folder / kModel, model);
  write_file(folder / kConfig, config.dump(2) + "\n");
}

}  // namespace surgery
