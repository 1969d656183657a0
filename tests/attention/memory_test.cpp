#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "attention/losses.h"
#include "attention/samples.h"
#include "attention/softmax_kernels.h"

namespace surgery {
namespace {

/// Counts what tensors take while it is the thread's reporter.
class Counter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    held += bytes;
    peak = std::max(peak, held);
    largest = std::max(largest, bytes);
  }
  void reportOutOfMemory(int64_t, size_t, size_t, c10::Device) override {}
  bool memoryProfilingEnabled() const override { return true; }

  int64_t held = 0, peak = 0, largest = 0;
};

Counter measured(const std::function<void()>& work) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);  // the reporter sees its own thread only
  auto counter = std::make_shared<Counter>();
  {
    c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    work();
  }
  at::set_num_threads(threads);
  return *counter;
}

const FeatureMapConfig small{.heads = 2, .head_dim = 16};

void expect_linear(const std::function<void(int64_t tokens)>& work) {
  const int64_t tokens = 4096;
  const Counter once = measured([&] { work(tokens); }), twice = measured([&] { work(2 * tokens); });
  EXPECT_GT(once.peak, tokens * 16 * 4) << "nothing was counted";
  EXPECT_LT(static_cast<double>(twice.peak), 2.5 * static_cast<double>(once.peak));
  const int64_t quadratic = 2 * tokens * 2 * tokens * 4;  // one head's logits
  EXPECT_LT(twice.largest, quadratic / 2);
}

test::Sample learning_sample(int64_t tokens, bool inputs) {
  test::Sample sample = test::random_sample(1, tokens, small, 1, at::kFloat, 1.0);
  if (inputs)
    for (const at::Tensor* x : {&sample.q, &sample.k, &sample.v}) x->requires_grad_(true);
  for (const FeatureMap* phi : {&sample.phi_q, &sample.phi_k})
    for (const at::Tensor& parameter : phi->parameters()) parameter.requires_grad_(true);
  return sample;
}

TEST(Memory, OfHybridAttentionAndItsBackwardIsLinearInTokens) {
  for (const Rate rate : parse_rates("1,2,8,linear")) {
    SCOPED_TRACE("rate " + rate.name());
    expect_linear([&](int64_t tokens) {
      const test::Sample s = learning_sample(tokens, true);
      hybrid_attention(s.q, s.k, s.v, s.phi_q, s.phi_k, rate, Stabilizer::max).square().sum().backward();
    });
  }
}

TEST(Memory, OfDistillationIsLinearInTokens) {
  expect_linear([&](int64_t tokens) {
    const test::Sample s = learning_sample(tokens, false);
    const std::vector<Rate> rates = parse_rates("2,4,8");
    SoftmaxPart full;
    const std::vector<SoftmaxPart> parts = nested_softmax_parts(s.q, s.k, s.v, rates, true, full);
    for (size_t i = 0; i < rates.size(); ++i)
      value_loss(full.output,
                 hybrid_from_part(parts[i], s.q, s.k, s.v, s.phi_q, s.phi_k, rates[i], Stabilizer::max))
          .backward();
    attention_loss(s.q, s.k, parts[0], s.phi_q, s.phi_k, rates[0], Stabilizer::max, 256, {1, 2}).backward();
  });
}

TEST(Memory, OfTheTiledWaysIsBounded) {
  expect_linear([&](int64_t tokens) {
    const test::Sample s = test::random_sample(1, tokens, small, 1, at::kFloat, 1.0);
    const SoftmaxForward forward = tiled_softmax_forward(s.q, s.k, s.v, RowMaximum::value_and_index);
    tiled_softmax_backward(s.v, s.q, s.k, s.v, forward.output, forward.lse);
    stock_softmax_forward(s.q, s.k, s.v, RowMaximum::value_and_index);
  });
}

}  // namespace
}  // namespace surgery
