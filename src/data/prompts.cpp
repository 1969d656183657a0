#include "data/prompts.h"

#include <string_view>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

constexpr size_t kMaxListBytes = size_t{256} << 20;
constexpr size_t kMaxLineBytes =
    64 << 10;  // far beyond what any text encoder reads; a binary file stops here

std::string_view trim(std::string_view text) {
  return trimmed(text, " \t\r\n\f\v");
}

/// Lines without their ends; blank lines at the end of the file do not count.
std::vector<std::string> read_lines(const std::filesystem::path& path) {
  std::error_code code;
  if (!std::filesystem::exists(path, code)) fail_io("{}: no such prompt list: check the path", path.string());
  const std::string content = read_file(path, kMaxListBytes);
  std::string_view rest = content;
  if (rest.substr(0, 3) == "\xEF\xBB\xBF") rest.remove_prefix(3);
  std::vector<std::string> lines;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    const size_t number = lines.size() + 1;
    VALIDATE(line.size() <= kMaxLineBytes, "{}: line {} has {} bytes (limit {}): expected one prompt a line",
             path.string(), number, line.size(), kMaxLineBytes);
    VALIDATE(line.find('\0') == std::string_view::npos, "{}: line {} holds a NUL byte: expected UTF-8 text",
             path.string(), number);
    const size_t bad = find_utf8_error(line);
    VALIDATE(
        bad == std::string_view::npos,
        "{}: line {} is not UTF-8 at byte {} (the tokenizer reads UTF-8 only): convert the file to UTF-8",
        path.string(), number, bad + 1);
    lines.emplace_back(trim(line));
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

Prompt parse_line(const std::string& line, const std::filesystem::path& path, size_t number) {
  const size_t tab = line.find('\t');
  if (tab == std::string::npos) return {line, line};
  VALIDATE(line.find('\t', tab + 1) == std::string::npos,
           "{}: line {} holds more than one tab: expected PROMPT, or PROMPT<TAB>EXTENDED", path.string(),
           number);
  return {std::string(trim(std::string_view(line).substr(0, tab))),
          std::string(trim(std::string_view(line).substr(tab + 1)))};
}

}  // namespace

std::vector<Prompt> read_prompts(const std::filesystem::path& path,
                                 const std::optional<std::filesystem::path>& extended) {
  const std::vector<std::string> lines = read_lines(path);
  std::vector<std::string> extensions;
  if (extended) {
    extensions = read_lines(*extended);
    VALIDATE(extensions.size() <= lines.size(),
             "{} has {} lines, {} has {} (line n of one belongs to line n of the other): make them parallel",
             extended->string(), extensions.size(), path.string(), lines.size());
  }
  std::vector<Prompt> prompts;
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool has_extension = i < extensions.size() && !extensions[i].empty();
    if (lines[i].empty()) {
      VALIDATE(!has_extension,
               "{}: line {} extends nothing (the line is blank in {}): make the files parallel",
               extended->string(), i + 1, path.string());
      continue;
    }
    Prompt prompt = parse_line(lines[i], path, i + 1);
    if (has_extension) prompt.text = extensions[i];
    prompts.push_back(std::move(prompt));
  }
  VALIDATE(!prompts.empty(), "{}: holds no prompt: expected one prompt a line", path.string());
  return prompts;
}

}  // namespace surgery
