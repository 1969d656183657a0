#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/clip_rules.h"
#include "parallel/session.h"
#include "wan/transformer.h"

namespace surgery {

/// What is measured, and how often.
struct BenchOptions {
  int64_t tokens = 8192, heads = 2, head_dim = 128;  ///< of the attention benchmark
  TransformerConfig transformer;                     ///< sizes of the transformer benchmark's
  int64_t batch = 1;                                 ///< of the transformer benchmark
  int64_t clips = 8;                                 ///< of a step of the finetuning benchmark
  ClipShape clip{17, 128, 160};                      ///< of the finetuning benchmark
  std::vector<std::string> shardings;                ///< of the finetuning benchmark, in turn
  int64_t repetitions = 5;                           ///< of every candidate, interleaved
  std::filesystem::path folder;                      ///< for the files of the cache and load benchmarks
  std::filesystem::path source;                      ///< the source tree, for the reference benchmark
};

/// One line of a table: seconds of this program, with a peer in the same run, a limit, or neither.
struct BenchRow {
  std::string name;
  double seconds = 0;
  std::string peer = "";
  double peer_seconds = 0;  ///< 0 = no peer
  double goal = 0;          ///< of peer / ours; 0 = none
  double limit = 0;         ///< of the seconds; 0 = none
  std::string note = "";
  double ratio() const { return peer_seconds / seconds; }  ///< how many times faster than the peer
};

struct BenchTable {
  std::string title;
  std::vector<BenchRow> rows;
};

/// Seconds of every candidate and repetition, run in turn so that a change of the machine's load meets all
/// alike. One round before the first counts for nothing.
std::vector<std::vector<double>> interleaved_seconds(const std::vector<std::function<void()>>& candidates,
                                                     int64_t repetitions);
/// Their medians; and their fastest, for small work on a shared machine.
std::vector<double> interleaved_medians(const std::vector<std::function<void()>>& candidates,
                                        int64_t repetitions);
std::vector<double> interleaved_best(const std::vector<std::function<void()>>& candidates,
                                     int64_t repetitions);

/// Hybrid attention at each rate and the nested parts of all rates, forward, fp32, against LibTorch's flash
/// attention over all tokens and this program's own full attention.
BenchTable bench_attention(const BenchOptions& options);
/// Randomly drawn transformer at the small teacher's clip (400 tokens), fp32. Its peer, diffusers, is timed
/// the same way by tests/bench/transformer_bench.py.
BenchTable bench_transformer(const BenchOptions& options);
/// Exact selection on random tables.
BenchTable bench_knapsack(const BenchOptions& options);
/// A trajectory of Wan2.1 1.3B at 480p (217 MB) written and read, with checksums and fsync, against plain
/// write and read of the same bytes.
BenchTable bench_cache(const BenchOptions& options);
/// A transformer of these sizes from a cold file, in its own dtype and converted, against reading the file.
BenchTable bench_load(const BenchOptions& options);
/// Data-parallel training of a transformer on all ranks under every sharding, a checkpoint beside it, and the
/// losses against those of one rank with the same global batch. Collective; the table is rank 0's.
BenchTable bench_finetune(const BenchOptions& options, Session& session);
/// Against programs in Python, by one of the source tree's tests/bench, which the Python of SURGERY_PYTHON
/// (else python3) runs. Error{io}.
/// Transformer, umT5, VAE and `encode` against diffusers, transformers and one rank: half an hour.
BenchTable bench_reference(const BenchOptions& options);
/// Finetuning on two ranks of one thread against PyTorch's DistributedDataParallel over gloo.
BenchTable bench_train(const BenchOptions& options);

}  // namespace surgery
