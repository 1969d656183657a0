#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace surgery {

/// A prompt is encoded as `text` and named (files, reports) by `name`: the original, where `text` is an
/// extended form.
struct Prompt {
  std::string name, text;
  bool operator==(const Prompt&) const = default;
};

/// Reads a prompt list: UTF-8, one prompt a line, blank lines ignored, surrounding white space dropped. A
/// line may be `original<TAB>extended`. With `extended`, line n of that file is the extended form of line n
/// of `path`, a blank one meaning that there is none. Throws Error{data} naming file and line for what is not
/// UTF-8, holds NUL or two tabs, for files of different length, and for a list without any prompt; Error{io}
/// for what cannot be read.
std::vector<Prompt> read_prompts(const std::filesystem::path& path,
                                 const std::optional<std::filesystem::path>& extended = {});

}  // namespace surgery
