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

/// The rows that a program of tests/bench prints as JSON.
BenchTable table_by(const std::string& name, const std::string& title, const BenchOptions& options) {
  const fs::path script = options.source / "tests/bench" / name;
  if (!fs::exists(script))
    fail_usage(
        "{}: is not there (the reference implementations are timed by the programs of the source "
        "tree): give --source",
        script.string());
  const char* python = std::getenv("SURGERY_PYTHON");
  const std::string line =
      fmt::format("SURGERY_BINARY={} {} {}", quoted(fs::read_symlink("/proc/self/exe").string()),
                  quoted(python ? python : "python3"), quoted(script.string()));
  BenchTable table{title, {}};
  const nlohmann::json rows = parse_strict_json(output_of(line), script.string());
  for (const auto& row : rows)
    table.rows.push_back({.name = row.at("name").get<std::string>(),
                          .seconds = row.at("seconds").get<double>(),
                          .peer = row.value("peer", ""),
                          .peer_seconds = row.value("peer_seconds", 0.0),
                          .goal = row.value("goal", 0.0),
                          .limit = row.value("limit_seconds", 0.0),
                          .note = row.value("note", "")});
  return table;
}

}  // namespace

BenchTable bench_reference(const BenchOptions& options) {
  return table_by("reference_bench.py", "against the reference implementations, at Wan2.1's sizes, fp32",
                  options);
}

BenchTable bench_train(const BenchOptions& options) {
  return table_by("train_bench.py",
                  "finetuning on two ranks of one thread, 8 blocks of width 512, 1,000 tokens, fp32",
                  options);
}

}  // namespace surgery
