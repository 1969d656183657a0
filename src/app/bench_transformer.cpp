#include "app/bench.h"
#include "base/random.h"

namespace surgery {

BenchTable bench_transformer(const BenchOptions& options) {
  const TransformerConfig& config = options.transformer;
  const RandomKey key{2024, 1};
  Transformer transformer = Transformer::random(config, key);
  transformer.set_requires_grad(true);
  const auto latents = random_normal(key.with("latents"), {options.batch, config.in_channels, 5, 16, 20});
  const auto text = random_normal(key.with("text"), {options.batch, 32, config.text_dim});
  const auto timestep = at::full({options.batch}, 500, at::kFloat);
  const std::vector<double> best =
      interleaved_best({[&] {
                          const at::NoGradGuard no_gradient;
                          transformer.forward(latents, timestep, text);
                        },
                        [&] {
                          transformer.forward(latents, timestep, text).square().mean().backward();
                          for (auto& [name, tensor] : transformer.parameters()) tensor.mutable_grad().reset();
                        }},
                       options.repetitions);
  const char* peer = "against diffusers: tests/bench/transformer_bench.py";
  return {fmt::format("transformer: {} blocks, {} heads of {}, ffn {}, text {}, 400 tokens, batch {}, fp32; "
                      "fastest of {}",
                      config.num_layers, config.num_attention_heads, config.attention_head_dim,
                      config.ffn_dim, config.text_dim, options.batch, options.repetitions),
          {{.name = "forward", .seconds = best[0], .note = peer},
           {.name = "forward and backward", .seconds = best[1], .note = peer}}};
}

}  // namespace surgery
