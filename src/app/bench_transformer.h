#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace surgery {

/// Shape of the transformer benchmark: the small teacher at its own clip (5 x 8 x 10 = 400 tokens).
struct TransformerBenchOptions {
  int64_t layers = 10, heads = 8, head_dim = 16, ffn_dim = 384, text_dim = 128, text_length = 32;
  int64_t frames = 5, height = 16, width = 20;  ///< of the latents
  int64_t batch = 1;
  int64_t repetitions = 20;
};

struct TransformerTiming {
  double forward_seconds = 0;   ///< best of the repetitions, no gradient
  double training_seconds = 0;  ///< forward and backward of mean(velocity^2)
};

/// Times a randomly drawn transformer in fp32. The first run of each kind counts for nothing. The peer
/// (diffusers) is timed the same way by tests/bench/transformer_bench.py.
TransformerTiming bench_transformer(const TransformerBenchOptions& options);

}  // namespace surgery
