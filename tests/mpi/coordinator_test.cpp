#include "parallel/coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <thread>

#include "parallel/agreed_error.h"
#include "session_main.h"

namespace surgery {
namespace {

using testing::session;

std::vector<WorkUnit> numbered(size_t count) {
  std::vector<WorkUnit> units;
  for (size_t i = 0; i < count; ++i) units.push_back({fmt::format("unit {}", i), 1});
  return units;
}

/// Whether all units were made.
bool run_all(const std::vector<WorkUnit>& units, const std::function<void(size_t)>& make,
             const std::function<bool()>& stop = {}) {
  return run_units(session(), units, make, stop).empty();
}

/// How often each unit was made, over all ranks.
class Tally {
 public:
  explicit Tally(size_t count) : made_(at::zeros({static_cast<int64_t>(count)}, at::kLong)) {}
  void operator()(size_t unit) { made_[static_cast<int64_t>(unit)] += 1; }
  at::Tensor total() const {
    at::Tensor sum = made_.clone();
    session().world().all_reduce(sum, Reduction::sum);
    return sum;
  }

 private:
  at::Tensor made_;
};

/// The error that run_units throws, which must be the same text and code on every rank.
std::pair<ExitCode, std::string> agreed_failure(const std::function<void()>& call) {
  ExitCode code = ExitCode::done;
  std::string what;
  try {
    call();
    ADD_FAILURE() << "no failure";
  } catch (const AgreedError& error) {
    code = error.code();
    what = error.what();
  }
  for (const std::string& other :
       session().world().gather_text(fmt::format("{} {}", static_cast<int>(code), what)))
    EXPECT_EQ(other, fmt::format("{} {}", static_cast<int>(code), what));
  return {code, what};
}

TEST(Coordinator, EveryUnitIsMadeExactlyOnce) {
  for (const size_t count : {0, 1, 2, 3, 17, 100}) {
    Tally tally(count);
    EXPECT_TRUE(run_all(numbered(count), std::ref(tally)));
    EXPECT_TRUE(at::equal(tally.total(), at::ones({static_cast<int64_t>(count)}, at::kLong))) << count;
  }
}

TEST(Coordinator, LongestUnitsAreHandedOutFirst) {
  std::vector<WorkUnit> units = numbered(6);
  const std::vector<double> weights{1, 5, 3, 5, 9, 2};
  for (size_t i = 0; i < weights.size(); ++i) units[i].weight = weights[i];
  std::vector<size_t> mine;
  EXPECT_TRUE(run_all(units, [&](size_t unit) { mine.push_back(unit); }));
  // What one rank is given never gets heavier; alone it is the whole order, ties by position.
  for (size_t i = 1; i < mine.size(); ++i) EXPECT_GE(weights[mine[i - 1]], weights[mine[i]]);
  if (session().size() == 1) {
    EXPECT_EQ(mine, (std::vector<size_t>{4, 1, 3, 2, 5, 0}));
  }
}

TEST(Coordinator, RanksShareTheWork) {
  // Nobody can make all: each rank's first unit waits until every rank has one.
  const size_t ranks = static_cast<size_t>(session().size());
  auto communicator = session().duplicate();
  size_t mine = 0;
  EXPECT_TRUE(run_all(numbered(ranks), [&](size_t) {
    communicator->barrier();
    ++mine;
  }));
  EXPECT_EQ(mine, 1u);
}

TEST(Coordinator, AFailedUnitIsTriedOnAnotherRank) {
  Tally tally(5);
  at::Tensor failed_here = at::zeros({1}, at::kLong);
  EXPECT_TRUE(run_all(numbered(5), [&](size_t unit) {
    // Unit 2 fails once on whichever rank gets it; on a single rank there is no other.
    if (unit == 2 && failed_here.item<int64_t>() == 0) {
      failed_here[0] = 1;
      if (session().size() == 1 || session().rank() == 0) fail_io("disk full");
    }
    tally(unit);
  }));
  EXPECT_TRUE(at::equal(tally.total(), at::ones({5}, at::kLong)));
}

TEST(Coordinator, AUnitThatAlwaysFailsIsNamedAndFailsEveryRank) {
  Tally tries(4);
  const auto [code, what] = agreed_failure([&] {
    run_units(session(), numbered(4), [&](size_t unit) {
      if (unit != 3) return;
      tries(unit);
      fail_data("frame {} is damaged", 9);
    });
  });
  EXPECT_EQ(code, ExitCode::data);
  EXPECT_NE(what.find("unit 3 failed 3 times"), std::string::npos) << what;
  EXPECT_NE(what.find("frame 9 is damaged"), std::string::npos) << what;
  const at::Tensor total = tries.total();
  EXPECT_EQ(total[3].item<int64_t>(), 3);
  EXPECT_EQ(total.sum().item<int64_t>(), 3);
}

TEST(Coordinator, NoRankTriesAFailingUnitTwiceWhileAnotherHasNot) {
  at::Tensor here = at::zeros({1}, at::kLong);
  CoordinatorOptions options;
  options.attempts = session().size();
  agreed_failure([&] {
    run_units(
        session(), numbered(1),
        [&](size_t) {
          here[0] += 1;
          throw std::runtime_error("no");
        },
        {}, options);
  });
  EXPECT_EQ(here.item<int64_t>(), 1);
}

TEST(Coordinator, TheLastFailureGivesTheExitCode) {
  CoordinatorOptions options;
  options.attempts = 1;
  EXPECT_EQ(agreed_failure([&] {
              run_units(
                  session(), numbered(3), [](size_t) { throw std::runtime_error("odd \xff text"); }, {},
                  options);
            }).first,
            ExitCode::internal);
  EXPECT_EQ(agreed_failure([&] {
              run_units(
                  session(), numbered(3), [](size_t) { fail_io("no space left"); }, {}, options);
            }).first,
            ExitCode::io);
  // And the ranks are in step afterwards.
  Tally tally(7);
  EXPECT_TRUE(run_all(numbered(7), std::ref(tally)));
  EXPECT_TRUE(at::equal(tally.total(), at::ones({7}, at::kLong)));
}

TEST(Coordinator, AStopOnOneRankEndsThePhaseOnAll) {
  for (int who = 0; who < session().size(); ++who) {
    Tally tally(1000);
    bool stop = false;
    const std::vector<size_t> left = run_units(
        session(), numbered(1000),
        [&](size_t unit) {
          tally(unit);
          std::this_thread::sleep_for(std::chrono::microseconds(200));
          if (session().rank() == who) stop = true;
        },
        [&] { return stop; });
    EXPECT_FALSE(left.empty());
    const at::Tensor total = tally.total();
    std::vector<size_t> not_made;
    for (size_t unit = 0; unit < 1000; ++unit)
      if (total[static_cast<int64_t>(unit)].item<int64_t>() == 0) not_made.push_back(unit);
    EXPECT_EQ(left, not_made);
    EXPECT_LE(total.max().item<int64_t>(), 1);
    EXPECT_GE(total.sum().item<int64_t>(), 1);
    EXPECT_LT(total.sum().item<int64_t>(), 1000);
  }
}

TEST(Coordinator, AStopBeforeTheFirstUnitMakesNothing) {
  Tally tally(3);
  EXPECT_FALSE(run_all(numbered(3), std::ref(tally), [] { return true; }));
  EXPECT_EQ(tally.total().sum().item<int64_t>(), 0);
}

TEST(Coordinator, WorkThatIsDoneStaysDoneWhenAStopComesLate) {
  bool made = false;
  EXPECT_TRUE(run_all(
      numbered(0), [&](size_t) { made = true; }, [] { return true; }));
  EXPECT_FALSE(made);
}

TEST(Coordinator, AUnitThatStopsHalfWayIsNotAFailure) {
  const std::vector<size_t> left = run_units(session(), numbered(20), [&](size_t unit) {
    if (unit == 4) fail(ExitCode::requeue, "asked to stop");
  });
  EXPECT_TRUE(std::ranges::binary_search(left, size_t{4}));
}

TEST(Coordinator, RanksThatSeeDifferentWorkAreRefused) {
  if (session().size() == 1) GTEST_SKIP() << "needs two ranks";
  const size_t count = session().rank() == 1 ? 4 : 5;
  const auto [code, what] = agreed_failure([&] { run_units(session(), numbered(count), [](size_t) {}); });
  EXPECT_EQ(code, ExitCode::io);
  EXPECT_NE(what.find("rank 1 "), std::string::npos) << what;
}

/// One unit of `seconds` that beats or does not; how often this rank's watchdog (limit 3 s) expired.
int expiries_during_a_unit(double seconds, bool beats) {
  std::atomic<int> expiries = 0;
  Watchdog watchdog("here", [&](const std::string&) { ++expiries; });
  watchdog.enter("phase", 3);
  CoordinatorOptions options;
  options.watchdog = &watchdog;
  run_units(
      session(), numbered(1),
      [&](size_t) {
        for (int i = 0; i < 20; ++i) {
          std::this_thread::sleep_for(std::chrono::duration<double>(seconds / 20));
          if (beats) watchdog.beat();
        }
      },
      {}, options);
  return expiries;
}

TEST(Coordinator, RanksThatWaitHearOfProgressElsewhere) {
  EXPECT_EQ(expiries_during_a_unit(5, true), 0);
}

TEST(Coordinator, RanksThatWaitForOneThatHangsExpire) {
  EXPECT_EQ(expiries_during_a_unit(5, false), 1);
}

TEST(Coordinator, RequestsAreAnsweredWhileRankZeroWorks) {
  if (session().size() == 1) GTEST_SKIP() << "needs two ranks";
  // Rank 0's unit ends only when the others have made all the rest.
  const int64_t rest = 20;
  auto communicator = session().duplicate();
  at::Tensor made = at::zeros({1}, at::kLong);
  std::atomic<bool> rank_0_is_in = false;
  std::vector<WorkUnit> units = numbered(static_cast<size_t>(rest) + 1);
  EXPECT_TRUE(run_all(units, [&](size_t) {
    if (session().rank() == 0 && !rank_0_is_in.exchange(true)) {
      // Rank 0's first unit: the other ranks go on asking and being answered meanwhile.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    made += 1;
  }));
  communicator->all_reduce(made, Reduction::sum);
  EXPECT_EQ(made.item<int64_t>(), rest + 1);
}

}  // namespace
}  // namespace surgery
