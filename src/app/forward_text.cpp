#include <algorithm>

#include "app/forward.h"
#include "base/utf8.h"
#include "recipe/component_cost.h"
#include "storage/atomic_file.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

/// The prompt itself, or the lines of the file that "@FILE" names.
std::vector<std::string> prompts_of(const std::string& option) {
  if (!option.starts_with('@')) return {option};
  const std::string text = read_file(option.substr(1));
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    const size_t bad = find_utf8_error(lines.back());
    VALIDATE(
        bad == std::string::npos,
        "{}: line {} is not UTF-8 at byte {} (the tokenizer reads UTF-8 only): convert the file to UTF-8",
        option.substr(1), lines.size(), bad + 1);
    begin = end + 1;
  }
  VALIDATE(!lines.empty(), "{}: holds no prompt: write one a line", option.substr(1));
  return lines;
}

/// input_ids and attention_mask [prompts, longest], padded with 0 on the right.
TensorMap tokenise(const Tokenizer& tokenizer, const std::vector<std::string>& prompts) {
  std::vector<std::vector<int64_t>> rows;
  size_t longest = 0;
  for (const auto& prompt : prompts)
    longest = std::max(longest, rows.emplace_back(tokenizer.encode(prompt)).size());
  const std::vector<int64_t> shape{static_cast<int64_t>(rows.size()), static_cast<int64_t>(longest)};
  at::Tensor ids = at::zeros(shape, at::kLong), mask = at::zeros(shape, at::kLong);
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto length = static_cast<int64_t>(rows[row].size());
    ids[static_cast<int64_t>(row)].slice(0, 0, length).copy_(at::tensor(rows[row], at::kLong));
    mask[static_cast<int64_t>(row)].slice(0, 0, length).fill_(1);
  }
  return {{"input_ids", ids}, {"attention_mask", mask}};
}

at::Tensor integers(const TensorMap& input, const std::string& name) {
  const auto& tensor = input_tensor(input, name);
  VALIDATE(!tensor.is_floating_point(), "input \"{}\" holds {} (integers are needed): convert it", name,
           c10::toString(tensor.scalar_type()));
  return tensor.to(at::kLong);
}

TextEncoder load_encoder(const std::filesystem::path& model, const CommandLine& options) {
  const at::ScalarType dtype = precision_option(options);
  auto encoder = TextEncoder::load(model);
  if (stream_option(options, static_cast<double>(c10::elementSize(dtype)) *
                                 static_cast<double>(parameter_count(encoder.config()))))
    encoder.stream();
  encoder.to(at::kCPU, dtype);
  return encoder;
}

Tokenizer load_tokenizer(const std::filesystem::path& model, const CommandLine& options) {
  return Tokenizer::load(options.text("tokenizer", model.string()));
}

std::function<TensorMap()> prepare(const std::filesystem::path& model, const TensorMap& input,
                                   const CommandLine& options) {
  const bool from_prompts = options.has("prompt");
  if (from_prompts && !input.empty()) fail_usage("both --input and --prompt are given: give one of them");
  const TensorMap tokens = from_prompts
                               ? tokenise(load_tokenizer(model, options), prompts_of(options.text("prompt")))
                               : TensorMap{{"input_ids", integers(input, "input_ids")},
                                           {"attention_mask", integers(input, "attention_mask")}};
  return [=, encoder = load_encoder(model, options)] {
    TensorMap output = from_prompts ? tokens : TensorMap{};
    output["last_hidden_state"] = encoder.forward(tokens.at("input_ids"), tokens.at("attention_mask"));
    return output;
  };
}

/// Every prompt embedded and padded as the stages of a recipe do it.
std::function<TensorMap()> prepare_context(const std::filesystem::path& model, const TensorMap&,
                                           const CommandLine& options) {
  if (!options.has("prompt")) fail_usage("--prompt is missing (the context is a prompt's): give one");
  return [prompts = prompts_of(options.text("prompt")),
          tokenizer = std::make_shared<const Tokenizer>(load_tokenizer(model, options)),
          encoder = load_encoder(model, options)]() -> TensorMap {
    std::vector<at::Tensor> rows;
    for (const std::string& prompt : prompts)
      rows.push_back(pad_text(embed_prompt(*tokenizer, encoder, prompt), tokenizer->max_length()));
    return {{"encoder_hidden_states", at::cat(rows)}};
  };
}

}  // namespace

std::vector<Component> text_components() {
  return {{"text",
           "input_ids, attention_mask [B,L] -> last_hidden_state; with --prompt the tokens are made and "
           "given too",
           prepare},
          {"context",
           "--prompt -> encoder_hidden_states, what the transformer is given: the prompt's rows, then zeros",
           prepare_context}};
}

}  // namespace surgery
