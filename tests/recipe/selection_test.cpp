#include "recipe/selection.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/errors.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

// Six blocks; later blocks suffer more. Costs 100, 60, 40 and 20.
Tables example() {
  Tables tables;
  for (int64_t b = 0; b < 6; ++b) {
    const double weight = static_cast<double>(b + 1);
    tables.rows.push_back({b, Rate::full(), 0, 100, 10.0});
    tables.rows.push_back({b, Rate::every(2), 0.1 * weight, 60, 7.0});
    tables.rows.push_back({b, Rate::every(4), 0.25 * weight, 40, 5.0});
    tables.rows.push_back({b, Rate::linear(), 0.9 * weight, 20, 3.0});
  }
  return tables;
}

SelectSection section(const std::string& budget, const std::string& mode = "heterogeneous") {
  SelectSection config;
  config.budget = budget;
  config.mode = mode;
  return config;
}

int exit_code(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return static_cast<int>(error.code());
  }
  return 0;
}

TEST(Budget, TakesEveryForm) {
  const Tables tables = example();
  EXPECT_DOUBLE_EQ(parse_budget("0.7", tables, "flops"), 420);
  EXPECT_DOUBLE_EQ(parse_budget("70%", tables, "flops"), 420);
  EXPECT_DOUBLE_EQ(parse_budget("1", tables, "flops"), 600);
  EXPECT_DOUBLE_EQ(parse_budget("450", tables, "flops"), 450);
  EXPECT_DOUBLE_EQ(parse_budget("1.5K", tables, "flops"), 1500);
  EXPECT_DOUBLE_EQ(parse_budget("1e3", tables, "flops"), 1000);
  EXPECT_DOUBLE_EQ(parse_budget("3xR4", tables, "flops"), 420);
  EXPECT_DOUBLE_EQ(parse_budget("2xlinear", tables, "flops"), 440);
  EXPECT_DOUBLE_EQ(parse_budget("0.5", tables, "milliseconds"), 30);
}

TEST(Budget, RefusesEverythingElse) {
  for (const char* text : {"", "x", "-1", "0", "nan", "inf", "7xR4", "3xR16", "3x", "0.5abc", "%", "1.2 X"})
    EXPECT_NE(exit_code([&] { parse_budget(text, example(), "flops"); }), 0) << text;
  EXPECT_EQ(exit_code([&] { parse_budget("abc", example(), "flops"); }), 64);
}

TEST(Selection, MeetsTheBudgetWithAProof) {
  const Selection selection = select_rates(example(), section("0.7"));
  EXPECT_LE(selection.cost, 420);
  EXPECT_TRUE(selection.optimal);
  EXPECT_DOUBLE_EQ(selection.bound, selection.error);
  EXPECT_EQ(selection.rates.size(), 6u);
  EXPECT_TRUE(selection.frontier.complete);
}

TEST(Selection, PinsAreKept) {
  SelectSection config = section("0.8");
  config.pins = "0=1,5=linear";
  const Selection selection = select_rates(example(), config);
  EXPECT_TRUE(selection.rates[0].is_full());
  EXPECT_TRUE(selection.rates[5].is_linear());
  config.pins = "9=1";
  EXPECT_EQ(exit_code([&] { select_rates(example(), config); }), 64);
  config.pins = "1=1,1=2";
  EXPECT_EQ(exit_code([&] { select_rates(example(), config); }), 64);
}

TEST(Selection, HomogeneousTakesTheBlocksOfLowestError) {
  SelectSection config = section("0.7", "homogeneous");
  config.homogeneous_rate = "4";
  const Selection selection = select_rates(example(), config);
  for (int b = 0; b < 6; ++b) EXPECT_EQ(selection.rates[static_cast<size_t>(b)].is_full(), b >= 3) << b;
  EXPECT_DOUBLE_EQ(selection.cost, 420);
  config.homogeneous_blocks = 2;
  EXPECT_DOUBLE_EQ(select_rates(example(), config).cost, 480);
  // At equal cost the exact choice is never worse.
  EXPECT_LE(select_rates(example(), section("0.7")).error, selection.error);
}

TEST(Selection, ImpossibleBudgetNamesTheCheapest) {
  try {
    select_rates(example(), section("0.1"));
    FAIL() << "an impossible budget was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("120"), std::string::npos) << error.what();
  }
}

TEST(Selection, SurvivesItsJson) {
  const Selection selection = select_rates(example(), section("0.6"));
  const Selection read = parse_selection(selection_json(selection), "selection.json");
  EXPECT_EQ(read.rates, selection.rates);
  EXPECT_EQ(read.error, selection.error);
  EXPECT_EQ(read.bound, selection.bound);
  EXPECT_EQ(exit_code([] { parse_selection("{\"rates\": 3", "x"); }), 65);
}

class TablesFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / "surgery-tables-test";
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path file(const std::string& name, const std::string& content) {
    write_file(folder_ / name, content);
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

TEST_F(TablesFile, RoundTripsThroughBothForms) {
  const Tables tables = example();
  const Tables csv = read_tables(file("t.csv", tables_csv(tables)));
  write_tables_h5(folder_ / "t.h5", tables, "f");
  const Tables h5 = read_tables(folder_ / "t.h5");
  for (const Tables* read : {&csv, &h5}) {
    ASSERT_EQ(read->rows.size(), tables.rows.size());
    EXPECT_EQ(tables_csv(*read), tables_csv(tables));
  }
  EXPECT_EQ(tables_fingerprint(folder_ / "t.h5"), "f");
}

TEST_F(TablesFile, BadRowsAreRefusedWithTheirLine) {
  const std::string head = "block,rate,error,flops,milliseconds\n";
  for (const std::string row : {"0,1,0,100", "0,0,0,100,", "a,1,0,100,", "0,1,nan,100,", "0,1,-1,100,",
                                "1,1,0,100,", "0,1,0,100,\n0,1,0,100,", "0,1,0,100,x"}) {
    EXPECT_EQ(exit_code([&] { read_tables(file("bad.csv", head + row + "\n")); }), 65) << row;
  }
  EXPECT_EQ(exit_code([&] { read_tables(file("empty.csv", head)); }), 65);
  EXPECT_EQ(exit_code([&] { read_tables(file("foreign.csv", "a,b\n1,2\n")); }), 65);
  EXPECT_EQ(exit_code([&] { read_tables(folder_ / "missing.csv"); }), 74);
  EXPECT_EQ(exit_code([&] { read_tables(file("t.txt", head)); }), 64);
}

}  // namespace
}  // namespace surgery
