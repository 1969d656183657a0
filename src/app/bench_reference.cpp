#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>

#include "app/bench.h"
#include "base/errors.h"
#include "storage/strict_json.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

/// One word of a shell's line.
std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string output_of(const std::string& line) {
  std::FILE* pipe = ::popen(line.c_str(), "r");
  if (!pipe) fail_io("{}: cannot be started", line);
  std::string text;
  std::array<char, 4096> piece{};
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
    text.append(piece.data(), count);
  const int status = ::pclose(pipe);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_io("{}: failed", line);
  return text;
}

}  // namespace

BenchTable bench_reference(const BenchOptions& options) {
  const fs::path script = options.source / "tests/bench/reference_bench.py";
  if (!fs::exists(script))
    fail_usage(
        "{}: is not there (the reference implementations are timed by the programs of the source "
        "tree): give --source",
        script.string());
  const char* python = std::getenv("SURGERY_PYTHON");
  const std::string line =
      fmt::format("SURGERY_BINARY={} {} {}", quoted(fs::read_symlink("/proc/self/exe").string()),
                  quoted(python ? python : "python3"), quoted(script.string()));
  BenchTable table{"against the reference implementations, at Wan2.1's sizes, fp32", {}};
  const nlohmann::json rows = parse_strict_json(output_of(line), script.string());
  for (const auto& row : rows)
    table.rows.push_back({.name = row.at("name").get<std::string>(),
                          .seconds = row.at("seconds").get<double>(),
                          .peer = row.at("peer").get<std::string>(),
                          .peer_seconds = row.at("peer_seconds").get<double>(),
                          .goal = row.at("goal").get<double>(),
                          .note = row.at("note").get<std::string>()});
  return table;
}

}  // namespace surgery
