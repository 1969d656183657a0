#include <algorithm>
#include <chrono>

#include "app/bench.h"
#include "attention/hybrid.h"
#include "base/random.h"

namespace surgery {

std::vector<double> interleaved_medians(const std::vector<std::function<void()>>& candidates,
                                        int64_t repetitions) {
  std::vector<std::vector<double>> seconds(candidates.size());
  for (int64_t round = 0; round <= repetitions; ++round)
    for (size_t i = 0; i < candidates.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      candidates[i]();
      const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
      if (round > 0) seconds[i].push_back(spent.count());
    }
  std::vector<double> medians;
  for (std::vector<double>& one : seconds) {
    const auto middle = one.begin() + static_cast<std::ptrdiff_t>(one.size() / 2);
    std::nth_element(one.begin(), middle, one.end());
    medians.push_back(*middle);
  }
  return medians;
}

std::vector<BenchRow> bench_attention(const BenchOptions& options) {
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
  std::vector<BenchRow> rows{
      {"full attention", seconds[1], seconds[0], seconds[0] / seconds[1], 1.0, peers[0]}};
  for (size_t i = 0; i < cases.size(); ++i)
    rows.push_back({cases[i].name, seconds[i + 2], seconds[cases[i].peer],
                    seconds[cases[i].peer] / seconds[i + 2], cases[i].goal, peers[cases[i].peer]});
  return rows;
}

}  // namespace surgery
