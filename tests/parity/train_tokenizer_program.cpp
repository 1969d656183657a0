// train_tokenizer_program LINES VOCAB_SIZE MAX_LENGTH FOLDER: what the program writes, for the reference to
// read.
#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "wan/text_encoder.h"

int main(int count, char** arguments) {
  if (count != 5) return 64;
  try {
    std::vector<std::string> lines;
    std::ifstream in(arguments[1]);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    surgery::train_tokenizer(lines, std::atoll(arguments[2]), std::atoll(arguments[3]), arguments[4]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 70;
  }
  return 0;
}
