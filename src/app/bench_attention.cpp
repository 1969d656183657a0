#include "app/bench.h"
#include "attention/hybrid.h"
#include "base/random.h"

namespace surgery {

BenchTable bench_attention(const BenchOptions& options) {
  at::NoGradGuard no_grad;
  const RandomKey key{2024, 0};
  // As the model holds them: heads side by side within a token.
  const auto tensor = [&](std::string_view name) {
    return random_normal(key.with(name), {1, options.tokens, options.heads, options.head_dim})
        .transpose(1, 2);
  };
  const at::Tensor q = tensor("q"), k = tensor("k"), v = tensor("v");
  const FeatureMapConfig config{options.heads, options.head_dim};
  const FeatureMap phi_q = FeatureMap::initial(config, key.with("phi_q")),
                   phi_k = FeatureMap::initial(config, key.with("phi_k"));

  struct Case {
    std::string name;
    size_t peer;  ///< 0 LibTorch, 1 our full attention
    double goal;
    std::function<void()> run;
  };
  std::vector<Case> cases;
  const auto hybrid = [&](Stabilizer stabilizer, int64_t stride, double goal) {
    cases.push_back(
        {fmt::format("hybrid {} R{}", to_string(stabilizer), stride), 0, goal, [&, stabilizer, stride] {
           hybrid_attention(q, k, v, phi_q, phi_k, Rate::every(stride), stabilizer);
         }});
  };
  hybrid(Stabilizer::lse, 2, 1.55);
  hybrid(Stabilizer::lse, 4, 2.5);
  hybrid(Stabilizer::lse, 8, 3.7);
  hybrid(Stabilizer::max, 2, 1.45);
  hybrid(Stabilizer::max, 4, 2.35);
  hybrid(Stabilizer::max, 8, 3.5);
  cases.push_back({"hybrid linear", 0, 0,
                   [&] { hybrid_attention(q, k, v, phi_q, phi_k, Rate::linear(), Stabilizer::max); }});
  const std::vector<Rate> rates = parse_rates("1,2,4,8");
  for (const bool with_max : {false, true})
    cases.push_back(
        {fmt::format("nested parts R1,2,4,8 ({})", with_max ? "max" : "lse"), 1, 1 / 1.15, [&, with_max] {
           SoftmaxPart full;
           nested_softmax_parts(q, k, v, rates, with_max, full);
         }});

  std::vector<std::function<void()>> candidates{
      [&] { at::_scaled_dot_product_flash_attention_for_cpu(q, k, v); }, [&] { full_attention(q, k, v); }};
  for (const Case& one : cases) candidates.push_back(one.run);
  const std::vector<double> seconds = interleaved_medians(candidates, options.repetitions);

  const char* const peers[] = {"LibTorch flash, all tokens", "own full attention"};
  BenchTable table{fmt::format("attention: forward, fp32, {} tokens, {} heads of {}; medians of {}",
                               options.tokens, options.heads, options.head_dim, options.repetitions),
                   {}};
  const auto add = [&](const std::string& name, double ours, size_t peer, double goal) {
    table.rows.push_back(
        {.name = name, .seconds = ours, .peer = peers[peer], .peer_seconds = seconds[peer], .goal = goal});
  };
  add("full attention", seconds[1], 0, 1.0);
  for (size_t i = 0; i < cases.size(); ++i) add(cases[i].name, seconds[i + 2], cases[i].peer, cases[i].goal);
  return table;
}

}  // namespace surgery
