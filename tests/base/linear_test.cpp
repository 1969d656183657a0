#include "base/linear.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace surgery {
namespace {

double error(const at::Tensor& got, const at::Tensor& wanted) {
  return (got.to(at::kDouble) - wanted).abs().max().item<double>() / (1 + wanted.abs().max().item<double>());
}

/// Small sizes go to MKL, large ones to oneDNN; both must be the same function with the same gradients.
TEST(Linear, AgreesWithFp64AlsoInItsGradients) {
  for (const auto& [rows, in, out] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{5, 7, 3}, {300, 128, 130}, {1000, 64, 256}})
    for (const bool with_bias : {true, false}) {
      const at::Tensor x = random_normal({1, 0}, {2, rows, in}), weight = random_normal({1, 1}, {out, in}),
                       bias = random_normal({1, 2}, {out}), up = random_normal({1, 3}, {2, rows, out});
      std::vector<at::Tensor> narrow{x.clone(), weight.clone()},
          wide{x.to(at::kDouble), weight.to(at::kDouble)};
      if (with_bias) {
        narrow.push_back(bias.clone());
        wide.push_back(bias.to(at::kDouble));
      }
      for (auto* list : {&narrow, &wide})
        for (at::Tensor& leaf : *list) leaf.requires_grad_(true);
      const at::Tensor y = surgery::linear(narrow[0], narrow[1], with_bias ? narrow[2] : at::Tensor());
      const at::Tensor wanted =
          at::linear(wide[0], wide[1], with_bias ? std::optional(wide[2]) : std::nullopt);
      ASSERT_EQ(y.sizes(), wanted.sizes());
      EXPECT_LT(error(y, wanted), 1e-5);
      const auto got = torch::autograd::grad({y}, narrow, {up});
      const auto exact = torch::autograd::grad({wanted}, wide, {up.to(at::kDouble)});
      for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(error(got[i], exact[i]), 1e-5) << "gradient " << i;
    }
}

TEST(Linear, TakesStridedInputsAndLeavesOutUnwantedGradients) {
  const at::Tensor x = random_normal({2, 0}, {3, 400, 64}).transpose(0, 1),
                   weight = random_normal({2, 1}, {64, 200}).t();
  EXPECT_LT(error(surgery::linear(x, weight), at::linear(x.to(at::kDouble), weight.to(at::kDouble))), 1e-5);
  const at::Tensor leaf = weight.clone().requires_grad_(true);
  const at::Tensor gradient = torch::autograd::grad({surgery::linear(x, leaf).sum()}, {leaf})[0];
  EXPECT_LT(error(gradient, x.to(at::kDouble).sum(0).sum(0).expand({200, 64})), 1e-5);
}

TEST(Linear, ServesOtherTypes) {
  const at::Tensor x = random_normal({3, 0}, {500, 128}), weight = random_normal({3, 1}, {128, 128});
  EXPECT_TRUE(at::equal(surgery::linear(x.to(at::kDouble), weight.to(at::kDouble)),
                        at::linear(x.to(at::kDouble), weight.to(at::kDouble))));
  EXPECT_EQ(surgery::linear(x.to(at::kBFloat16), weight.to(at::kBFloat16)).scalar_type(), at::kBFloat16);
}

TEST(Product, AgreesWithFp64ForEveryTransposition) {
  for (const auto& [m, k, n] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{3, 4, 5}, {256, 700, 128}, {700, 256, 128}}) {
    const at::Tensor a = random_normal({4, 0}, {m, k}), b = random_normal({4, 1}, {k, n});
    const at::Tensor wanted = at::mm(a.to(at::kDouble), b.to(at::kDouble));
    const at::Tensor a_t = a.t().contiguous().t(), bt = b.t().contiguous().t();
    EXPECT_LT(error(product(a, b), wanted), 1e-5);
    EXPECT_LT(error(product(a_t, b), wanted), 1e-5);
    EXPECT_LT(error(product(a, bt), wanted), 1e-5);
    EXPECT_LT(error(product(a_t, bt), wanted), 1e-5);
  }
}

}  // namespace
}  // namespace surgery
