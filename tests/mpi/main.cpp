// GoogleTest over MPI ranks: every rank runs every test in the same order; a test fails when it fails
// anywhere.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>

#include "session_main.h"

namespace surgery::testing {
namespace {

std::unique_ptr<Session> the_session;

/// Rank 0's usual output, with the other ranks' failures; the other ranks print nothing of their own.
class RankPrinter final : public ::testing::EmptyTestEventListener {
 public:
  explicit RankPrinter(std::unique_ptr<::testing::TestEventListener> usual) : usual_(std::move(usual)) {}

  void OnTestProgramStart(const ::testing::UnitTest& unit) override { usual_->OnTestProgramStart(unit); }
  void OnTestIterationStart(const ::testing::UnitTest& unit, int n) override {
    usual_->OnTestIterationStart(unit, n);
  }
  void OnTestSuiteStart(const ::testing::TestSuite& suite) override { usual_->OnTestSuiteStart(suite); }
  void OnTestStart(const ::testing::TestInfo& info) override { usual_->OnTestStart(info); }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    usual_->OnTestPartResult(result);
  }
  void OnTestEnd(const ::testing::TestInfo& info) override { usual_->OnTestEnd(info); }
  void OnTestSuiteEnd(const ::testing::TestSuite& suite) override { usual_->OnTestSuiteEnd(suite); }
  void OnTestIterationEnd(const ::testing::UnitTest& unit, int n) override {
    usual_->OnTestIterationEnd(unit, n);
  }

 private:
  std::unique_ptr<::testing::TestEventListener> usual_;
};

/// After each test the ranks tell each other how it went; rank 0 fails with whoever failed.
class Agreement final : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed())
      messages_ +=
          fmt::format("rank {}: {}:{}: {}\n", session().rank(), result.file_name() ? result.file_name() : "?",
                      result.line_number(), result.message());
  }
  void OnTestEnd(const ::testing::TestInfo&) override {
    const auto all = session().world().gather_text(std::exchange(messages_, {}));
    for (size_t r = 1; r < all.size() && session().rank() == 0; ++r)
      if (!all[r].empty()) ADD_FAILURE() << all[r];
    messages_.clear();
  }
  std::string messages_;
};

}  // namespace

Session& session() {
  return *the_session;
}

}  // namespace surgery::testing

int main(int argc, char** argv) {
  using namespace surgery::testing;
  ::testing::InitGoogleTest(&argc, argv);
  the_session = std::make_unique<surgery::Session>(argc, argv);
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  std::unique_ptr<::testing::TestEventListener> usual(listeners.Release(listeners.default_result_printer()));
  // Ends of tests are told in reverse order of registration: the agreement comes before the printer's
  // verdict.
  if (session().rank() == 0) listeners.Append(new RankPrinter(std::move(usual)));
  listeners.Append(new Agreement);
  try {
    const int result = RUN_ALL_TESTS();
    const double worst = session().world().all_reduce_value(result, surgery::Reduction::max);
    session().finish();
    return static_cast<int>(worst);
  } catch (const std::exception& error) {
    return session().report(error);
  }
}
