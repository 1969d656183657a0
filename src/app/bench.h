#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace surgery {

/// What is measured, and how often.
struct BenchOptions {
  int64_t tokens = 8192, heads = 2, head_dim = 128;
  int64_t repetitions = 5;  ///< of every candidate, interleaved
};

/// One line of the table: this program against a peer in the same run.
struct BenchRow {
  std::string name;
  double ours_seconds = 0, peer_seconds = 0;  ///< medians
  double ratio = 0;                           ///< peer / ours: how many times faster
  double goal = 0;                            ///< of the ratio; 0 = none
  std::string peer;
};

/// Medians of seconds of every candidate, run in turn so that a change of the machine's load meets all alike.
/// One round before the first counts for nothing.
std::vector<double> interleaved_medians(const std::vector<std::function<void()>>& candidates,
                                        int64_t repetitions);

/// Hybrid attention at each rate and the nested parts of all rates, forward, fp32, against LibTorch's flash
/// attention over all tokens and this program's own full attention.
std::vector<BenchRow> bench_attention(const BenchOptions& options);

}  // namespace surgery
