#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "attention/samples.h"
#include "attention/softmax_kernels.h"
#include "base/errors.h"

namespace surgery {
namespace {

using test::largest;
using test::largest_difference;

struct Inputs {
  at::Tensor q, k, v;
};

/// Random inputs whose rows lie as the projections leave them: heads side by side within a token.
Inputs random_inputs(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t dim,
                     double spread) {
  const auto one = [&](std::string_view name, int64_t tokens, double factor) {
    return (random_normal(RandomKey{21, 0}.with(name), {batch, tokens, heads, dim}) * factor).transpose(1, 2);
  };
  return {one("q", queries, spread), one("k", keys, spread), one("v", keys, 1)};
}

/// The definition, in fp64.
SoftmaxForward by_definition(const Inputs& in) {
  const at::Tensor q = in.q.to(at::kDouble), k = in.k.to(at::kDouble), v = in.v.to(at::kDouble);
  const at::Tensor logits = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  const auto [max, argmax] = logits.max(3);
  return {at::matmul(at::softmax(logits, 3), v), logits.logsumexp(3), max, argmax};
}

using Way =
    std::function<SoftmaxForward(const at::Tensor&, const at::Tensor&, const at::Tensor&, RowMaximum)>;

std::map<std::string, Way> every_way(int64_t dim) {
  std::map<std::string, Way> ways{
      {"chosen", softmax_forward}, {"stock", stock_softmax_forward}, {"tiled", tiled_softmax_forward}};
  for (const cpu::Kernels* kernels : cpu::kernels())
    if (dim % kernels->row_group == 0)
      ways[kernels->name] = [kernels](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      RowMaximum maximum) {
        return cpu_softmax_forward(*kernels, q, k, v, maximum);
      };
  return ways;
}

TEST(SoftmaxPart, EveryWayAgreesWithTheDefinition) {
  for (const int64_t dim : {8, 16, 20, 128})
    for (const auto& [queries, keys] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {5, 300}, {49, 7}, {300, 131}, {200, 256}}) {
      const Inputs in = random_inputs(2, 3, queries, keys, dim, 1.5);
      const SoftmaxForward wanted = by_definition(in);
      for (const auto& [name, way] : every_way(dim)) {
        SCOPED_TRACE(fmt::format("{}, head dim {}, {} queries, {} keys", name, dim, queries, keys));
        const SoftmaxForward got = way(in.q, in.k, in.v, RowMaximum::value_and_index);
        EXPECT_LT(largest_difference(got.output, wanted.output), 1e-5);
        EXPECT_LT(largest_difference(got.lse, wanted.lse), 1e-5);
        EXPECT_LT(largest_difference(got.max, wanted.max), 1e-5);
        EXPECT_TRUE(at::equal(got.argmax, wanted.argmax));
        EXPECT_FALSE(way(in.q, in.k, in.v, RowMaximum::none).max.defined());
        EXPECT_TRUE(at::equal(way(in.q, in.k, in.v, RowMaximum::value).max, got.max));
      }
    }
}

TEST(SoftmaxPart, IsAccurateWithLogitsOfEighty) {
  Inputs in = random_inputs(1, 2, 100, 500, 16, 1);
  const double reach = largest(at::matmul(in.q, in.k.transpose(2, 3))) / 4;
  in.q = in.q * (80 / reach);
  const SoftmaxForward wanted = by_definition(in);
  EXPECT_NEAR(largest(wanted.max), 80, 0.1);
  for (const auto& [name, way] : every_way(16)) {
    SCOPED_TRACE(name);
    const SoftmaxForward got = way(in.q, in.k, in.v, RowMaximum::value);
    EXPECT_LT(largest_difference(got.output, wanted.output), 2e-4);
    EXPECT_LT(largest_difference(got.lse, wanted.lse), 1e-4);
    EXPECT_LT(largest_difference(got.max, wanted.max), 1e-4);
  }
}

TEST(SoftmaxPart, TakesHalfWidthInputs) {
  const Inputs in = random_inputs(1, 2, 70, 90, 16, 1);
  const SoftmaxForward wanted = by_definition(in);
  for (const auto& [name, way] : every_way(16)) {
    SCOPED_TRACE(name);
    const SoftmaxForward got =
        way(in.q.to(at::kBFloat16), in.k.to(at::kBFloat16), in.v.to(at::kBFloat16), RowMaximum::value);
    EXPECT_EQ(got.output.scalar_type(), at::kBFloat16);
    EXPECT_EQ(got.lse.scalar_type(), at::kFloat);
    EXPECT_LT(largest_difference(got.output, wanted.output), 0.05);
    EXPECT_LT(largest_difference(got.max, wanted.max), 0.05);
  }
}

TEST(SoftmaxPart, NaNIsSeenNotHidden) {
  // Training is stopped by a loss that is not finite: a kernel must not make numbers of what is none.
  for (const bool in_keys : {false, true}) {
    Inputs in = random_inputs(1, 2, 150, 150, 16, 1);
    (in_keys ? in.k : in.q)[0][1][70][3] = std::nan("");
    for (const auto& [name, way] : every_way(16)) {
      SCOPED_TRACE(fmt::format("{}, {}", name, in_keys ? "keys" : "queries"));
      const at::Tensor bad = way(in.q, in.k, in.v, RowMaximum::none).output.isnan().all(3);
      EXPECT_TRUE(bad[0][1][70].item<bool>());
      EXPECT_EQ(bad.sum().item<int64_t>(), in_keys ? 150 : 1);
    }
  }
}

TEST(SoftmaxPart, RowMaximaOfHalfWidthInputsAreExact) {
  Inputs in = random_inputs(1, 2, 40, 60, 128, 1);
  for (at::Tensor* x : {&in.q, &in.k, &in.v}) *x = (*x * 2.5).to(at::kBFloat16).to(at::kFloat);
  const SoftmaxForward wanted = by_definition(in);
  ASSERT_GT(wanted.max.abs().max().item<double>(), 10) << "small logits would show nothing";
  for (const auto& [name, way] : every_way(128)) {
    SCOPED_TRACE(name);
    const SoftmaxForward got = way(in.q.to(at::kBFloat16), in.k.to(at::kBFloat16), in.v.to(at::kBFloat16),
                                   RowMaximum::value_and_index);
    EXPECT_LT(largest_difference(got.max, wanted.max), 1e-4);
    EXPECT_LT(largest_difference(got.lse, wanted.lse), 1e-4);
  }
}

TEST(SoftmaxPart, BackwardWaysAgreeForForeignOutputAndNormalizer) {
  const Inputs in = random_inputs(2, 2, 60, 75, 16, 1);
  const at::Tensor q = in.q.to(at::kDouble), k = in.k.to(at::kDouble), v = in.v.to(at::kDouble);
  const at::Tensor grad = random_normal({22, 0}, q.sizes()).to(at::kDouble);
  const at::Tensor output = random_normal({22, 1}, q.sizes()).to(at::kDouble);
  const at::Tensor lse = by_definition(in).lse + random_normal({22, 2}, q.sizes().slice(0, 3)).abs();
  const SoftmaxGradients stock = stock_softmax_backward(grad, q, k, v, output, lse),
                         tiled = tiled_softmax_backward(grad, q, k, v, output, lse);
  EXPECT_LT(largest_difference(stock.q, tiled.q), 1e-11);
  EXPECT_LT(largest_difference(stock.k, tiled.k), 1e-11);
  EXPECT_LT(largest_difference(stock.v, tiled.v), 1e-11);
}

void expect_same_part(const SoftmaxPart& a, const SoftmaxPart& b, double tolerance) {
  EXPECT_LT(largest_difference(a.output, b.output), tolerance);
  EXPECT_LT(largest_difference(a.lse, b.lse), tolerance);
  ASSERT_EQ(a.max.defined(), b.max.defined());
  if (a.max.defined()) {
    EXPECT_LT(largest_difference(a.max, b.max), tolerance);
  }
}

TEST(NestedParts, EqualDirectPartsOfEveryRateAndTheTeacher) {
  for (const char* list : {"8,4,2,1", "2,4,8", "1,2,3,4,8", "3", "6,3", "8,12,4", "100,50", "2", "1", "7,5"})
    for (const int64_t tokens : {1, 6, 8, 61})
      for (const bool with_max : {false, true})
        for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
          SCOPED_TRACE(fmt::format("rates {}, {} tokens", list, tokens));
          Inputs in = random_inputs(1, 2, tokens, tokens, 16, 1.5);
          in = {in.q.to(type), in.k.to(type), in.v.to(type)};
          const double tolerance = type == at::kDouble ? 1e-12 : 1e-5;
          const std::vector<Rate> rates = parse_rates(list);
          SoftmaxPart full;
          const std::vector<SoftmaxPart> parts =
              nested_softmax_parts(in.q, in.k, in.v, rates, with_max, full);
          ASSERT_EQ(parts.size(), rates.size());
          for (size_t i = 0; i < rates.size(); ++i) {
            const int64_t stride = rates[i].stride();
            expect_same_part(parts[i],
                             softmax_part(in.q, in.k.slice(2, 0, tokens, stride),
                                          in.v.slice(2, 0, tokens, stride), with_max),
                             tolerance);
          }
          expect_same_part(full, softmax_part(in.q, in.k, in.v, with_max), tolerance);
          EXPECT_LT(largest_difference(full.output, full_attention(in.q, in.k, in.v)), tolerance);
        }
}

TEST(NestedParts, MergeOfDisjointSetsIsThePartOfTheirUnion) {
  const Inputs in = random_inputs(2, 2, 40, 90, 16, 30);  // far apart sums: one side's weight vanishes
  const SoftmaxPart a = softmax_part(in.q, in.k.narrow(2, 0, 20), in.v.narrow(2, 0, 20), true),
                    b = softmax_part(in.q, in.k.narrow(2, 20, 70), in.v.narrow(2, 20, 70), true),
                    both = softmax_part(in.q, in.k, in.v, true);
  expect_same_part(merge(a, b), both, 2e-3);
  expect_same_part(merge(a, b), merge(b, a), 1e-5);
}

TEST(AttentionInputs, AreRefusedWithTheirShapes) {
  const at::Tensor x = at::zeros({1, 2, 5, 8});
  const auto expect_refused = [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const std::string& words) {
    try {
      softmax_part(q, k, v, false);
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  expect_refused(x, x.narrow(1, 0, 1), x.narrow(1, 0, 1), "q [1, 2, 5, 8], k [1, 1, 5, 8]");
  expect_refused(x, x, x.narrow(2, 0, 3), "v [1, 2, 3, 8]");
  expect_refused(x, x.narrow(3, 0, 4), x.narrow(3, 0, 4), "k [1, 2, 5, 4]");
  expect_refused(x[0], x[0], x[0], "q [2, 5, 8]");
  expect_refused(x, x.narrow(2, 0, 0), x.narrow(2, 0, 0), "none empty");
  expect_refused(x, x.to(at::kDouble), x, "Float, Double, Float");
  expect_refused(x.to(at::kInt), x.to(at::kInt), x.to(at::kInt), "one floating type");
}

}  // namespace
}  // namespace surgery
