// text_program clean|fix|ids [FOLDER]: a JSON list of texts on standard input becomes the list of what the
// program makes of them (null where it refuses one), for the reference to compare with.
#include <fmt/format.h>

#include <exception>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/errors.h"
#include "wan/fix_text.h"
#include "wan/text_encoder.h"

namespace {

using Json = nlohmann::json;

int run(const std::string& what, const char* folder) {
  std::optional<surgery::Tokenizer> tokenizer;
  if (what == "ids") tokenizer.emplace(surgery::Tokenizer::load(folder));
  const std::function<Json(const std::string&)> act = [&](const std::string& text) -> Json {
    if (what == "fix") return surgery::fix_text(text);
    if (what == "clean") return surgery::clean_prompt(text);
    return tokenizer.value().encode(text);
  };
  Json results = Json::array();
  for (const Json& text : Json::parse(std::cin)) {
    try {
      results.push_back(act(text.get<std::string>()));
    } catch (const surgery::Error& error) {
      if (error.code() != surgery::ExitCode::data) throw;
      results.push_back(nullptr);
    }
  }
  std::cout << results.dump();
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || (count < 3 && std::string(arguments[1]) == "ids")) return 64;
  try {
    return run(arguments[1], count > 2 ? arguments[2] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 70;
  }
}
