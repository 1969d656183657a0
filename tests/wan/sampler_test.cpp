#include "wan/sampler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/errors.h"
#include "base/random.h"
#include "wan/flow.h"

namespace surgery {
namespace {

at::Tensor scalar(double value) {
  return at::full({1}, value, at::kFloat);
}

struct LevelRow {
  const char* schedule;
  double shift, first, second, middle, last;
};

/// sigma 0, 1, 25 and 49 of 50.
class ScheduleLevels : public testing::TestWithParam<LevelRow> {};

TEST_P(ScheduleLevels, AreThePrograms) {
  const LevelRow& row = GetParam();
  const Schedule schedule = make_schedule(50, row.shift, parse_schedule(row.schedule));
  ASSERT_EQ(schedule.sigmas.size(), 51u);
  ASSERT_EQ(schedule.timesteps.size(), 50u);
  EXPECT_NEAR(schedule.sigmas[0], row.first, 6e-7);
  EXPECT_NEAR(schedule.sigmas[1], row.second, 6e-7);
  EXPECT_NEAR(schedule.sigmas[25], row.middle, 6e-7);
  EXPECT_NEAR(schedule.sigmas[49], row.last, 6e-7);
  EXPECT_EQ(schedule.sigmas[50], 0);
}

INSTANTIATE_TEST_SUITE_P(Table, ScheduleLevels,
                         testing::Values(LevelRow{"wan-unipc", 3, .999666, .992907, .749625, .057637},
                                         LevelRow{"wan-unipc", 5, .9998, .995732, .833055, .092507},
                                         LevelRow{"wan-unipc", 8, .999875, .997328, .888691, .140228},
                                         LevelRow{"wan-dpm++", 3, 1, .993243, .75, .057692},
                                         LevelRow{"wan-dpm++", 5, 1, .995935, .833333, .092593},
                                         LevelRow{"wan-dpm++", 8, 1, .997455, .888889, .140351},
                                         LevelRow{"diffsynth", 5, 1, .995935, .833333, .092593},
                                         LevelRow{"diffusers-unipc", 3, .999999, .99325, .750375, .060405},
                                         LevelRow{"diffusers-unipc", 5, .999999, .995939, .833611, .096778},
                                         LevelRow{"diffusers-unipc", 8, .999999, .997458, .889086, .146347},
                                         LevelRow{"diffusers-euler", 3, 1, .993124, .743436, .008929},
                                         LevelRow{"diffusers-euler", 5, 1, .995872, .829032, .024414},
                                         LevelRow{"diffusers-euler", 8, 1, .997424, .886435, .060207}));

TEST(Schedule, TimestepsAreCutOrNot) {
  using Times = std::vector<double>;
  EXPECT_EQ(make_schedule(4, 5).timesteps, (Times{999, 937, 833, 625}));
  EXPECT_EQ(make_schedule(4, 5, ScheduleKind::wan_unipc).timesteps, (Times{999, 937, 833, 624}));
  EXPECT_EQ(make_schedule(4, 5, ScheduleKind::wan_dpmpp).timesteps, (Times{1000, 937, 833, 625}));
  const Times uncut = make_schedule(4, 5, ScheduleKind::diffsynth).timesteps;
  EXPECT_EQ(uncut[0], 1000);
  EXPECT_NEAR(uncut[1], 937.5, 1e-9);
  EXPECT_NEAR(make_schedule(4, 5, ScheduleKind::diffusers_euler).timesteps[3], 24.414, 1e-3);
  EXPECT_EQ(make_schedule(1, 5, ScheduleKind::diffusers_euler).timesteps, (Times{1000}));
}

TEST(Flow, ALevelIsShiftedOnceAndItsTimestepNotCut) {
  EXPECT_DOUBLE_EQ(shifted_level(0.5, 3), 0.75);
  EXPECT_DOUBLE_EQ(shifted_level(0.5, 1), 0.5);
  EXPECT_EQ(shifted_level(0, 8), 0);
  EXPECT_EQ(shifted_level(1, 8), 1);
  const auto clip = random_normal({1, 1}, {2, 5}), noise = random_normal({1, 2}, {2, 5});
  const FlowSample sample = flow_sample(clip, noise, 0.99839);
  EXPECT_NEAR(sample.timestep, 998.39, 1e-9);
  EXPECT_TRUE(at::allclose(sample.input, clip * 0.00161 + noise * 0.99839, 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(sample.target, noise - clip));
  // A sampler that follows the target from the input ends in the clip.
  EXPECT_TRUE(at::allclose(sample.input - sample.target * 0.99839, clip, 1e-4, 1e-5));
}

TEST(Schedule, NamesRoundTrip) {
  EXPECT_EQ(schedule_names().size(), 5u);
  for (const std::string& name : schedule_names()) EXPECT_NO_THROW(parse_schedule(name));
  EXPECT_THROW(parse_schedule("karras"), Error);
}

TEST(Schedule, RefusesNoStepsAndNoShift) {
  EXPECT_THROW(make_schedule(0, 3), Error);
  EXPECT_THROW(make_schedule(10, 0), Error);
  EXPECT_THROW(make_schedule(10, -1), Error);
  EXPECT_THROW(schedule_from_sigmas({0.5, 0.7, 0}), Error);
  EXPECT_THROW(schedule_from_sigmas({0.5, 0.2}), Error);
  EXPECT_THROW(schedule_from_sigmas({1.5, 0}), Error);
  EXPECT_THROW(schedule_from_sigmas({0}), Error);
}

TEST(Sampler, NamesRoundTrip) {
  for (const auto kind :
       {SamplerKind::euler, SamplerKind::euler_ancestral, SamplerKind::unipc, SamplerKind::dpmpp_2m})
    EXPECT_EQ(parse_sampler(to_string(kind)), kind);
  try {
    parse_sampler("heun");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("euler-ancestral"), std::string::npos);
  }
}

TEST(EulerAncestral, StepsDownAndComesBackWithNoise) {
  // From 0.8 to 0.7: down to 0.6125, scaled by 0.774194, noise of 0.514918.
  const Schedule schedule = schedule_from_sigmas({0.8, 0.7, 0});
  const double x = 1.3, v = -0.4, x0 = x - 0.8 * v, down = 0.6125, scale = 0.774194;
  const double lowered = scale * (down / 0.8 * x + (1 - down / 0.8) * x0);
  for (const double z : {0.0, 1.0, -2.0}) {
    auto sampler = make_sampler(SamplerKind::euler_ancestral, schedule, [&](int64_t) { return scalar(z); });
    EXPECT_NEAR(sampler->step(0, scalar(x), scalar(v)).item<double>(), lowered + 0.514918 * z, 2e-6);
  }
}

TEST(Samplers, EndInThePredictedClip) {
  // With the exact velocity of one clip every sampler arrives at it.
  const Schedule schedule = make_schedule(12, 3);
  const auto clip = random_normal({1, 1}, {2, 5}), noise = random_normal({1, 2}, {2, 5});
  for (const auto kind :
       {SamplerKind::euler, SamplerKind::euler_ancestral, SamplerKind::unipc, SamplerKind::dpmpp_2m}) {
    auto sampler = make_sampler(kind, schedule, [&](int64_t step) {
      return random_normal(RandomKey{1, 3}.with(static_cast<uint64_t>(step)), {2, 5});
    });
    auto x = noise;
    for (int64_t step = 0; step < 12; ++step)
      x = sampler->step(step, x, (x - clip) / schedule.sigmas[static_cast<size_t>(step)]);
    EXPECT_TRUE(at::allclose(x, clip, 1e-5, 1e-5)) << to_string(kind);
  }
}

/// Error of a sampler on x0 ~ N(mean, deviation^2), whose velocity is known: v = (x - E[x0|x]) / sigma.
double gaussian_error(SamplerKind kind, int64_t steps) {
  constexpr double mean = 0.5, deviation = 0.3;
  const Schedule schedule = make_schedule(steps, 3);
  auto sampler = make_sampler(kind, schedule);
  const auto noise = at::linspace(-2, 2, 9, at::kFloat);
  auto x = noise;
  for (int64_t step = 0; step < steps; ++step) {
    const double sigma = schedule.sigmas[static_cast<size_t>(step)], alpha = 1 - sigma;
    const double variance = alpha * alpha * deviation * deviation + sigma * sigma;
    const auto x0 = mean + (x - alpha * mean) * (alpha * deviation * deviation / variance);
    x = sampler->step(step, x, (x - x0) / sigma);
  }
  // The flow maps quantiles to quantiles.
  return (x - (mean + deviation * noise)).abs().max().item<double>();
}

TEST(Samplers, HigherOrderIsNearerToAKnownFlow) {
  const double euler = gaussian_error(SamplerKind::euler, 80);
  EXPECT_LT(gaussian_error(SamplerKind::dpmpp_2m, 80), euler / 4);
  EXPECT_LT(gaussian_error(SamplerKind::unipc, 80), euler / 10);
  // At least second order: an eighth of the steps' length, a sixtieth of the error.
  EXPECT_LT(gaussian_error(SamplerKind::unipc, 160), gaussian_error(SamplerKind::unipc, 20) / 60);
}

TEST(Samplers, KeepTheirStateInFp32) {
  auto sampler = make_sampler(SamplerKind::unipc, make_schedule(3, 3));
  const auto x = random_normal({1, 1}, {4}).to(at::kBFloat16);
  EXPECT_EQ(sampler->step(0, x, x).scalar_type(), at::kFloat);
}

TEST(Samplers, RefuseStepsOutOfOrder) {
  auto sampler = make_sampler(SamplerKind::unipc, make_schedule(3, 3));
  EXPECT_THROW(sampler->step(1, scalar(0), scalar(0)), Error);
  auto complete = make_sampler(SamplerKind::euler, make_schedule(1, 3));
  complete->step(0, scalar(0), scalar(0));
  EXPECT_THROW(complete->step(1, scalar(0), scalar(0)), Error);
}

TEST(Samplers, OnlyUniPCCannotStartAtPureNoise) {
  const Schedule pure = schedule_from_sigmas({1, 0.5, 0}), below = schedule_from_sigmas({0.999, 0.5, 0});
  for (const auto kind :
       {SamplerKind::euler, SamplerKind::euler_ancestral, SamplerKind::unipc, SamplerKind::dpmpp_2m}) {
    EXPECT_TRUE(can_start(kind, below)) << to_string(kind);
    EXPECT_EQ(can_start(kind, pure), kind != SamplerKind::unipc) << to_string(kind);
  }
  EXPECT_THROW(make_sampler(SamplerKind::unipc, pure), Error);
}

}  // namespace
}  // namespace surgery
