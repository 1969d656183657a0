#include "parallel/gradient_buckets.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/random.h"
#include "session_main.h"

namespace surgery {
namespace {

using testing::session;

/// y = tanh(x A + a) B + b, with a weight that no loss uses.
struct Net {
  at::Tensor a, a_bias, b, b_bias, unused;

  explicit Net(at::ScalarType type = at::kFloat) {
    const auto parameter = [&](uint64_t stream, at::IntArrayRef shape) {
      return (random_normal(RandomKey{3, stream}, shape) * 0.3).to(type).requires_grad_();
    };
    a = parameter(1, {8, 33});
    a_bias = parameter(2, {33});
    b = parameter(3, {33, 5});
    b_bias = parameter(4, {5});
    unused = parameter(5, {7});
  }
  std::vector<ParameterGroup> groups() const {
    return {{{"a", a}, {"a_bias", a_bias}}, {{"unused", unused}}, {{"b", b}, {"b_bias", b_bias}}};
  }
  std::vector<at::Tensor> parameters() const { return {a, a_bias, unused, b, b_bias}; }
  at::Tensor loss(const at::Tensor& x) const {
    return (at::tanh(x.to(a.dtype()).matmul(a) + a_bias).matmul(b) + b_bias).square().mean();
  }
};

constexpr Sharding kShardings[] = {Sharding::none, Sharding::optimizer, Sharding::parameters};

std::vector<std::vector<at::Tensor>> tensors_of(const std::vector<ParameterGroup>& groups) {
  std::vector<std::vector<at::Tensor>> result;
  for (const ParameterGroup& group : groups) {
    result.emplace_back();
    for (const auto& [name, tensor] : group) result.back().push_back(tensor);
  }
  return result;
}

std::vector<size_t> last_first(size_t count) {
  std::vector<size_t> order;
  for (size_t b = count; b-- > 0;) order.push_back(b);
  return order;
}

/// Buckets over groups of one type each, and what their pieces are together.
struct Buckets : GradientBuckets {
  Communicator& ranks;
  BucketLayout layout;
  Sharding sharding;

  Buckets(Communicator& communicator, const std::vector<ParameterGroup>& groups,
          Sharding how = Sharding::none)
      : GradientBuckets(communicator, BucketLayout(groups, communicator.size()), tensors_of(groups),
                        last_first(groups.size()), how),
        ranks(communicator),
        layout(groups, communicator.size()),
        sharding(how) {}

  /// Collective: whole buckets, put together from every rank's piece.
  std::vector<at::Tensor> flat() const {
    std::vector<at::Tensor> result;
    for (size_t b = 0; b < layout.buckets.size(); ++b) {
      at::Tensor whole = pieces()[b].clone();
      if (sharding != Sharding::none) {
        whole = at::empty({layout.buckets[b].size});
        ranks.all_gather(pieces()[b].contiguous(), whole);
      }
      result.push_back(whole);
    }
    return result;
  }
  /// Collective: shaped like the parameters, in the order of the groups.
  std::vector<at::Tensor> gradients() const {
    std::vector<at::Tensor> result;
    const std::vector<at::Tensor> buckets = flat();
    for (size_t b = 0; b < buckets.size(); ++b)
      for (const auto& entry : layout.buckets[b].entries) result.push_back(view_of(buckets[b], entry));
    return result;
  }
};

/// The samples of one rank in one micro-step, [4, 8].
at::Tensor samples(int rank, int micro_step) {
  return random_normal(RandomKey{5, static_cast<uint64_t>(rank * 10 + micro_step)}, {4, 8});
}

/// The gradient of the mean over ranks of the sum over micro-steps, made by one rank alone, in fp64 sums.
std::vector<at::Tensor> alone(int micro_steps, at::ScalarType type = at::kFloat) {
  Net net(type);
  std::vector<at::Tensor> sums;
  for (const at::Tensor& p : net.parameters())
    sums.push_back(at::zeros_like(p, at::TensorOptions(at::kDouble)));
  for (int r = 0; r < session().size(); ++r)
    for (int m = 0; m < micro_steps; ++m) {
      const auto grads =
          torch::autograd::grad({net.loss(samples(r, m))}, net.parameters(), {}, {}, false, true);
      for (size_t i = 0; i < grads.size(); ++i)
        if (grads[i].defined()) sums[i] += grads[i].to(at::kDouble);
    }
  for (at::Tensor& sum : sums) sum /= session().size();
  return sums;
}

void run_step(Buckets& buckets, const Net& net, int micro_steps) {
  buckets.zero();
  for (int m = 0; m < micro_steps; ++m) {
    buckets.begin_micro_step(m + 1 == micro_steps);
    net.loss(samples(session().rank(), m)).backward();
  }
  buckets.finish();
}

void expect_close(const std::vector<at::Tensor>& gradients, const std::vector<at::Tensor>& expected,
                  double tolerance) {
  ASSERT_EQ(gradients.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(at::allclose(gradients[i].to(at::kDouble), expected[i].detach(), tolerance, tolerance))
        << "parameter " << i << "\n"
        << (gradients[i] - expected[i]).abs().max();
}

TEST(GradientBuckets, EqualTheGradientOfTheMeanLossMadeByOneRank) {
  auto communicator = session().duplicate();
  for (const Sharding sharding : kShardings)
    for (const int micro_steps : {1, 2, 3}) {
      Net net;
      Buckets buckets(*communicator, net.groups(), sharding);
      for (int repeat = 0; repeat < 2; ++repeat) run_step(buckets, net, micro_steps);
      expect_close(buckets.gradients(), alone(micro_steps), 1e-6);
      for (const at::Tensor& parameter : net.parameters())
        EXPECT_EQ(parameter.grad().defined(),
                  sharding != Sharding::parameters && !parameter.is_same(net.unused))
            << "views, or nothing";
    }
}

TEST(GradientBuckets, ParametersWithoutPartCountAsZero) {
  auto communicator = session().duplicate();
  for (const Sharding sharding : kShardings) {
    Net net;
    Buckets buckets(*communicator, net.groups(), sharding);
    run_step(buckets, net, 1);
    EXPECT_TRUE(at::equal(buckets.gradients()[2], at::zeros({7})));
    // Even when the ranks, and the micro-steps, differ in which parameters took part.
    buckets.zero();
    const bool takes_part = session().rank() == session().size() - 1;
    for (const bool last : {false, true}) {
      buckets.begin_micro_step(last);
      if (takes_part && last)
        (net.unused.sum() * 2 + net.a.sum()).backward();
      else
        net.b.sum().backward();
    }
    buckets.finish();
    EXPECT_TRUE(at::allclose(buckets.gradients()[2], at::full({7}, 2.0 / session().size())));
    for (const size_t bias : {1, 4})  // beside one that took part, in the same bucket
      EXPECT_EQ(buckets.gradients()[bias].abs().max().item<double>(), 0) << "what the step before left";
    run_step(buckets, net, 1);
    EXPECT_TRUE(at::equal(buckets.gradients()[2], at::zeros({7}))) << "what the step before left";
  }
}

TEST(GradientBuckets, RepeatedStepsGiveTheSameBits) {
  auto communicator = session().duplicate();
  Net net;
  Buckets buckets(*communicator, net.groups());
  std::vector<at::Tensor> first;
  for (int repeat = 0; repeat < 10; ++repeat) {
    run_step(buckets, net, 2);
    if (repeat == 0)
      for (const at::Tensor& gradient : buckets.gradients()) first.push_back(gradient.clone());
    for (size_t i = 0; i < first.size(); ++i)
      ASSERT_TRUE(at::equal(first[i], buckets.gradients()[i])) << repeat;
  }
  // And every rank has them.
  for (at::Tensor& gradient : first) {
    at::Tensor other = gradient.clone();
    communicator->broadcast(other, 0);
    EXPECT_TRUE(at::equal(other, gradient));
  }
}

TEST(GradientBuckets, Bf16ParametersAreSummedInFp32) {
  auto communicator = session().duplicate();
  for (const Sharding sharding : kShardings) {
    Net net(at::kBFloat16);
    Buckets buckets(*communicator, net.groups(), sharding);
    run_step(buckets, net, 3);
    for (const at::Tensor& piece : buckets.pieces()) EXPECT_EQ(piece.scalar_type(), at::kFloat);
    for (const at::Tensor& parameter : net.parameters()) EXPECT_FALSE(parameter.grad().defined());
    // Sums of bf16 gradients taken in fp64 and in fp32: far closer than bf16's 2^-9.
    expect_close(buckets.gradients(), alone(3, at::kBFloat16), 1e-6);
  }
}

TEST(GradientBuckets, AReplacedGradientStillReachesTheBucket) {
  auto communicator = session().duplicate();
  Net net;
  Buckets buckets(*communicator, net.groups());
  buckets.zero();
  for (const int micro_step : {0, 1}) {
    buckets.begin_micro_step(micro_step == 1);
    net.loss(samples(session().rank(), micro_step)).backward();
    if (micro_step == 0)
      for (const at::Tensor& parameter : net.parameters())
        parameter.mutable_grad() = at::Tensor();  // zero_grad() does that
  }
  buckets.finish();
  expect_close(buckets.gradients(), alone(2), 1e-6);
}

TEST(GradientBuckets, AStepThatBrokeOffLeavesNothingBehind) {
  auto communicator = session().duplicate();
  for (const Sharding sharding : kShardings) {
    Net net;
    Buckets buckets(*communicator, net.groups(), sharding);
    buckets.zero();
    buckets.begin_micro_step(false);
    net.a.sum().backward();  // an error ended the step here
    run_step(buckets, net, 1);
    expect_close(buckets.gradients(), alone(1), 1e-6);
  }
}

TEST(GradientBuckets, AGradientAfterItsBucketWasSentIsRefused) {
  auto communicator = session().duplicate();
  Net net;
  Buckets buckets(*communicator, net.groups());
  run_step(buckets, net, 1);
  EXPECT_THROW(net.loss(samples(session().rank(), 0)).backward(), Error);  // zero() was forgotten
}

TEST(GradientBuckets, BucketsCanBeCutInEqualPieces) {
  auto communicator = session().duplicate();
  Net net;
  Buckets buckets(*communicator, net.groups());
  run_step(buckets, net, 1);
  const auto groups = net.groups();
  ASSERT_EQ(buckets.pieces().size(), 3u);
  for (size_t g = 0; g < 3; ++g) {
    EXPECT_EQ(buckets.pieces()[g].numel() % (64 * session().size()), 0);
    double sum = 0;  // padding holds zeros
    for (const auto& [name, parameter] : groups[g])
      if (parameter.grad().defined()) sum += parameter.grad().to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(buckets.pieces()[g].to(at::kDouble).square().sum().item<double>(), sum, 1e-12 * (1 + sum));
  }
}

TEST(GradientBuckets, RefuseParametersTheyCannotServe) {
  auto communicator = session().duplicate();
  const at::Tensor frozen = at::zeros({3}), half = at::zeros({3}, at::kHalf).requires_grad_();
  const at::Tensor twice = at::zeros({3}).requires_grad_();
  EXPECT_THROW(Buckets(*communicator, {{{"frozen", frozen}}}), Error);
  EXPECT_THROW(Buckets(*communicator, {{{"half", half}}}), Error);
  EXPECT_THROW(Buckets(*communicator, {{{"one", twice}}, {{"another", twice}}}), Error);
  EXPECT_THROW(Buckets(*communicator, {{{"name", twice}}, {{"name", at::zeros({2}).requires_grad_()}}}),
               Error);
}

TEST(GradientBuckets, LargeBucketsOverlapWithoutChangingTheResult) {
  auto communicator = session().duplicate();
  std::vector<ParameterGroup> groups;
  for (uint64_t i = 0; i < 6; ++i)
    groups.push_back({{fmt::format("{}.w", i), random_normal(RandomKey{1, i}, {300, 300}).requires_grad_()},
                      {fmt::format("{}.b", i), random_normal(RandomKey{2, i}, {300}).requires_grad_()}});
  const auto loss = [&](int rank) {
    at::Tensor x = random_normal(RandomKey{9, static_cast<uint64_t>(rank)}, {4, 300});
    for (const auto& group : groups) x = at::tanh(x.matmul(group[0].second) * 0.05 + group[1].second);
    return x.square().mean();
  };
  std::vector<at::Tensor> parameters;
  for (const auto& group : tensors_of(groups))
    parameters.insert(parameters.end(), group.begin(), group.end());
  std::vector<at::Tensor> expected;
  for (int r = 0; r < session().size(); ++r) {
    const auto grads = torch::autograd::grad({loss(r)}, parameters);
    for (size_t i = 0; i < grads.size(); ++i) {
      if (r == 0) expected.push_back(at::zeros_like(grads[i], at::TensorOptions(at::kDouble)));
      expected[i] += grads[i].to(at::kDouble) / session().size();
    }
  }
  Buckets buckets(*communicator, groups);
  buckets.zero();
  loss(session().rank()).backward();
  buckets.finish();
  expect_close(buckets.gradients(), expected, 1e-7);
}

}  // namespace
}  // namespace surgery
