#include "parallel/data_parallel.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/random.h"
#include "session_main.h"

namespace surgery {
namespace {

using testing::session;

constexpr Sharding kShardings[] = {Sharding::none, Sharding::optimizer, Sharding::parameters};

/// Three "blocks" y = tanh(x W + b), an embedding before and a head after them, and a parameter that no loss
/// uses in the first block: as a transformer's groups, the last holds what is outside the blocks.
struct Net {
  std::vector<at::Tensor> weights, biases;
  at::Tensor embedding, head, unused;

  explicit Net(at::ScalarType type) {
    for (uint64_t i = 0; i < 3; ++i) {
      weights.push_back((random_normal({7, i}, {17, 17}) * 0.4).to(type).requires_grad_());
      biases.push_back((random_normal({8, i}, {17}) * 0.4).requires_grad_());  // fp32 in any case
    }
    embedding = random_normal({9, 1}, {17}).to(type).requires_grad_();
    head = random_normal({9, 0}, {17, 3}).to(type).requires_grad_();
    unused = at::ones({5}).requires_grad_();
  }
  std::vector<ParameterGroup> groups() const {
    std::vector<ParameterGroup> result;
    for (size_t i = 0; i < 3; ++i)
      result.push_back({{fmt::format("{}.w", i), weights[i]}, {fmt::format("{}.b", i), biases[i]}});
    result.front().emplace_back("unused", unused);
    result.push_back({{"embedding", embedding}, {"head", head}});
    return result;
  }
  std::map<std::string, at::Tensor> exact() const {
    std::map<std::string, at::Tensor> values;
    for (const ParameterGroup& group : groups())
      for (const auto& [name, tensor] : group) values[name] = tensor.detach().to(at::kFloat).clone();
    return values;
  }
};

DataParallel make_engine(const Net& net, Sharding sharding, const AdamWOptions& adamw = {},
                         double average_decay = 0) {
  return DataParallel(session().duplicate(), session().duplicate(), net.groups(),
                      {.sharding = sharding, .adamw = adamw, .average_decay = average_decay},
                      [values = net.exact()](const std::string& name) { return values.at(name); });
}

/// Calls `hook` when backward reaches what was computed from the tensor it is applied to.
struct Mark : torch::autograd::Function<Mark> {
  struct Hook : torch::CustomClassHolder {
    std::function<void()> call;
  };
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            std::function<void()> call) {
    auto hook = c10::make_intrusive<Hook>();
    hook->call = std::move(call);
    ctx->saved_data["hook"] = c10::IValue::make_capsule(hook);
    return x.view_as(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    c10::static_intrusive_pointer_cast<Hook>(ctx->saved_data["hook"].toCapsule())->call();
    return {gradients[0], {}};
  }
};

/// How many buckets' reductions had begun when the last backward came to each block.
std::array<size_t, 3> begun;

/// The loss, with every group there only while it is used.
at::Tensor loss_of(const Net& net, DataParallel& engine, const at::Tensor& input) {
  engine.need(3);
  at::Tensor x = input + net.embedding;
  for (size_t i = 0; i < 3; ++i) {
    engine.need(i);
    if (i < 2) engine.prefetch(i + 1);
    x = at::tanh(x.to(net.weights[i].dtype()).matmul(net.weights[i]) + net.biases[i]);
    x = Mark::apply(x, [&engine, i] {
      if (i < 2) engine.release(i + 1);
      begun[i] = engine.reductions_begun();
      engine.need(i);
      if (i > 0) engine.prefetch(i - 1);
    });
    engine.release(i);
  }
  return x.to(net.head.dtype()).matmul(net.head).to(at::kFloat).square().mean();
}

/// [4, 17], of one sample of the global batch of a step.
at::Tensor sample(int64_t step, int64_t index) {
  return random_normal(RandomKey{5, static_cast<uint64_t>(100 * step + index)}, {4, 17});
}

constexpr int64_t kBatch = 12;  // a multiple of 1, 2, 3 and 4 ranks, in micro-steps of one sample

double train_step(const Net& net, DataParallel& engine, double rate = 1e-2) {
  const int64_t step = engine.steps();
  engine.zero();
  double sum = 0;
  for (int64_t i = session().rank(); i < kBatch; i += session().size()) {
    engine.begin_micro_step(i + session().size() >= kBatch);
    const at::Tensor loss = loss_of(net, engine, sample(step, i));
    sum += loss.item<double>();
    (loss * (static_cast<double>(session().size()) / kBatch)).backward();
  }
  EXPECT_GT(engine.finish(0.5), 0);
  engine.update(rate);
  return session().world().all_reduce_value(sum, Reduction::sum) / kBatch;
}

struct Curve {
  std::vector<double> losses;
  std::map<std::string, at::Tensor> parameters;
};

std::map<std::string, at::Tensor> values_of(const Net& net, DataParallel& engine) {
  engine.need_all();
  auto values = net.exact();
  for (size_t group = 0; group < 4; ++group) engine.release(group);
  return values;
}

Curve train(Sharding sharding, at::ScalarType type, int64_t steps) {
  Net net(type);
  DataParallel engine = make_engine(net, sharding);
  Curve curve;
  for (int64_t i = 0; i < steps; ++i) curve.losses.push_back(train_step(net, engine));
  curve.parameters = values_of(net, engine);
  return curve;
}

/// The same by torch's own means on this rank alone.
Curve train_alone(int64_t steps) {
  Net net(at::kFloat);
  AdamW::Named named;
  std::vector<at::Tensor> tensors;
  for (const ParameterGroup& group : net.groups())
    for (const auto& [name, tensor] : group) {
      named.emplace_back(name, tensor);
      tensors.push_back(tensor);
    }
  AdamW optimizer(named, {});
  Curve curve;
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<at::Tensor> sums;
    double loss_sum = 0;
    for (const at::Tensor& tensor : tensors) sums.push_back(at::zeros_like(tensor).detach());
    for (int64_t i = 0; i < kBatch; ++i) {
      at::Tensor x = sample(step, i) + net.embedding;
      for (size_t b = 0; b < 3; ++b) x = at::tanh(x.matmul(net.weights[b]) + net.biases[b]);
      const at::Tensor loss = x.matmul(net.head).square().mean();
      loss_sum += loss.item<double>();
      const auto gradients = torch::autograd::grad({loss / kBatch}, tensors, {}, {}, false, true);
      for (size_t t = 0; t < tensors.size(); ++t)
        if (gradients[t].defined()) sums[t] += gradients[t];
    }
    clip_gradients(sums, 0.5);
    optimizer.step(sums, 1e-2);
    curve.losses.push_back(loss_sum / kBatch);
  }
  curve.parameters = net.exact();
  return curve;
}

void expect_near(const Curve& curve, const Curve& reference, double tolerance) {
  ASSERT_EQ(curve.losses.size(), reference.losses.size());
  for (size_t i = 0; i < curve.losses.size(); ++i)
    EXPECT_NEAR(curve.losses[i], reference.losses[i], tolerance * reference.losses[i]) << i;
  for (const auto& [name, tensor] : reference.parameters)
    EXPECT_TRUE(at::allclose(curve.parameters.at(name), tensor, tolerance, tolerance)) << name;
}

TEST(DataParallel, EveryShardingFollowsTheCurveOfOneRank) {
  const Curve alone = train_alone(12);
  EXPECT_LT(alone.losses.back(), 0.9 * alone.losses.front()) << "nothing is learned";
  for (const Sharding sharding : kShardings) {
    SCOPED_TRACE(sharding_names()[static_cast<size_t>(sharding)]);
    expect_near(train(sharding, at::kFloat, 12), alone, 1e-4);
  }
}

/// A block's gradients leave while those of the blocks before it are made; the embedding's, made last, hold
/// up none.
TEST(DataParallel, ReductionsTravelBesideBackward) {
  for (const Sharding sharding : kShardings) {
    Net net(at::kFloat);
    DataParallel engine = make_engine(net, sharding);
    begun = {};
    train_step(net, engine);
    EXPECT_EQ(begun, (std::array<size_t, 3>{2, 1, 0}));
    engine.settle();
  }
}

TEST(DataParallel, Bf16ParametersHaveFp32Masters) {
  const Curve whole = train(Sharding::none, at::kBFloat16, 6);
  for (const Sharding sharding : {Sharding::optimizer, Sharding::parameters})
    expect_near(train(sharding, at::kBFloat16, 6), whole, 1e-2);
  Net net(at::kBFloat16);
  DataParallel engine = make_engine(net, Sharding::optimizer);
  auto before = values_of(net, engine);
  for (int i = 0; i < 40; ++i) train_step(net, engine, 1e-5);  // far below what bf16 resolves in one step
  const auto after = values_of(net, engine);
  EXPECT_FALSE(at::equal(before.at("0.w"), after.at("0.w"))) << "small updates were rounded away";
}

TEST(DataParallel, RepeatedRunsGiveTheSameBits) {
  for (const Sharding sharding : kShardings) {
    const Curve first = train(sharding, at::kFloat, 4), second = train(sharding, at::kFloat, 4);
    EXPECT_EQ(first.losses, second.losses);
    for (const auto& [name, tensor] : first.parameters)
      EXPECT_TRUE(at::equal(tensor, second.parameters.at(name))) << name;
  }
}

/// Every rank's pieces on every rank: what a checkpoint's files hold.
struct Saved {
  BucketLayout layout;
  std::map<std::string, at::Tensor> whole;  // by state_piece's names
  int64_t steps = 0;

  explicit Saved(DataParallel& engine) : layout(engine.layout()), steps(engine.steps()) {
    for (const auto& [name, piece] : engine.state_piece()) {
      at::Tensor all = at::empty({piece.numel() * session().size()});
      session().world().all_gather(piece.contiguous(), all);
      whole[name] = all;
    }
  }
  at::Tensor read(const std::string& what, const std::string& parameter, int64_t begin, int64_t count) const {
    for (size_t b = 0; b < layout.buckets.size(); ++b)
      for (const auto& entry : layout.buckets[b].entries)
        if (entry.name == parameter)
          return whole.at(fmt::format("bucket-{:03d}.{}", b, what)).narrow(0, entry.offset + begin, count);
    throw std::logic_error(parameter);
  }
};

/// As on a GPU, whose masters and moments may lie in the host's memory: the parameters are copies of them.
TEST(DataParallel, AStateApartFromTheParametersGivesTheSameBits) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const Sharding sharding : kShardings) {
      Net with(type), apart(type);
      DataParallel one = make_engine(with, sharding, {}, 0.5),
                   other = make_engine(apart, sharding, {.state_device = at::Device(at::kCPU)}, 0.5);
      const auto alike = [](const Saved& expected, const Saved& found) {
        ASSERT_EQ(expected.whole.size(), found.whole.size());
        for (const auto& [name, tensor] : expected.whole)
          EXPECT_TRUE(at::equal(tensor, found.whole.at(name))) << name;
      };
      for (int i = 0; i < 3; ++i) EXPECT_EQ(train_step(with, one), train_step(apart, other));
      const Saved saved(one);
      alike(saved, Saved(other));
      train_step(apart, other);  // ahead, and back again
      other.load([&](const std::string& what, const std::string& name, int64_t begin,
                     int64_t count) { return saved.read(what, name, begin, count); },
                 saved.steps);
      alike(saved, Saved(other));
      EXPECT_EQ(train_step(with, one), train_step(apart, other));
      alike(Saved(one), Saved(other));
    }
}

TEST(DataParallel, AStateIsTakenBackExactlyByEverySharding) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const Sharding from : kShardings) {
      Net net(type);
      DataParallel engine = make_engine(net, from);
      for (int i = 0; i < 3; ++i) train_step(net, engine);
      const Saved saved(engine);
      const auto parameters = values_of(net, engine);
      const double next = train_step(net, engine);
      for (const Sharding to : kShardings) {
        Net other(type);
        DataParallel resumed = make_engine(other, to);
        train_step(other, resumed);  // it has a state of its own before
        resumed.load([&](const std::string& what, const std::string& name, int64_t begin,
                         int64_t count) { return saved.read(what, name, begin, count); },
                     saved.steps);
        EXPECT_EQ(resumed.steps(), 3);
        const Saved again(resumed);
        for (const auto& [name, tensor] : saved.whole)
          EXPECT_TRUE(at::equal(tensor, again.whole.at(name))) << name;
        for (const auto& [name, tensor] : values_of(other, resumed))
          EXPECT_TRUE(at::equal(tensor, parameters.at(name))) << name;
        const double continued = train_step(other, resumed);
        if (to == from) {
          EXPECT_EQ(continued, next);
        } else {
          EXPECT_NEAR(continued, next, 1e-5 * next);
        }
      }
    }
}

TEST(DataParallel, AGradientThatIsNotFiniteIsNamed) {
  for (const Sharding sharding : kShardings) {
    Net net(at::kFloat);
    DataParallel engine = make_engine(net, sharding);
    engine.zero();
    engine.begin_micro_step(true);
    engine.need_all();
    const double factor = session().rank() == 0 ? std::numeric_limits<double>::infinity() : 1;
    (net.biases[1].sum() * factor + net.weights[0].sum()).backward();
    EXPECT_FALSE(std::isfinite(engine.finish(1)));
    std::string found;
    for (const std::string& name : session().world().gather_text(engine.first_bad()))
      if (found.empty()) found = name;
    EXPECT_EQ(found, "1.b");
  }
}

/// ZeRO-3's point: outside its use a group takes no memory.
TEST(DataParallel, ReleasedGroupsHaveNoMemory) {
  Net net(at::kFloat);
  DataParallel engine = make_engine(net, Sharding::parameters);
  const auto bytes = [&](const at::Tensor& tensor) { return tensor.storage().nbytes(); };
  EXPECT_EQ(bytes(net.weights[1]), 0u);
  engine.need(1);
  EXPECT_GT(bytes(net.weights[1]), 17u * 17 * 4);
  EXPECT_EQ(bytes(net.weights[2]), 0u);
  engine.release(1);
  EXPECT_EQ(bytes(net.weights[1]), 0u);
  train_step(net, engine);
  for (const at::Tensor& weight : net.weights) EXPECT_EQ(bytes(weight), 0u);
}

}  // namespace
}  // namespace surgery
