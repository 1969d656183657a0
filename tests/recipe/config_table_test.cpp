#include "recipe/config_table.h"

#include <gtest/gtest.h>

#include <set>

namespace surgery {
namespace {

std::vector<std::string> faults_of(const std::vector<Setting>& settings) {
  Config config;
  return apply_settings(config, settings);
}
std::string fault_of(const std::string& key, const std::string& value) {
  const std::vector<std::string> faults = faults_of({{key, value, "test.cfg:3"}});
  EXPECT_LE(faults.size(), 1u);
  return faults.empty() ? "" : faults.front();
}

TEST(ConfigTable, DefaultsAreValid) {
  const Config config;
  EXPECT_TRUE(check_combinations(config).empty());
  for (const ConfigOption& option : config_table()) {
    Config copy;
    EXPECT_EQ(set_option(copy, option, option.default_value()), "") << option.key();
  }
}

TEST(ConfigTable, KeysAreUniqueAndDescribed) {
  std::set<std::string> keys;
  for (const ConfigOption& option : config_table()) {
    EXPECT_TRUE(keys.insert(option.key()).second) << option.key();
    EXPECT_FALSE(option.help.empty()) << option.key();
  }
}

// Guards against an accessor that points at another option's field.
TEST(ConfigTable, EveryOptionHasAFieldOfItsOwn) {
  const Config defaults;
  for (const ConfigOption& changed : config_table()) {
    Config config;
    std::visit(
        [&](const auto& access) {
          auto& field = access(config);
          using T = std::remove_reference_t<decltype(field)>;
          if constexpr (std::is_same_v<T, std::string>)
            field += "x";
          else if constexpr (std::is_same_v<T, bool>)
            field = !field;
          else
            field += 1;
        },
        changed.access);
    for (const ConfigOption& option : config_table())
      EXPECT_EQ(get_option(config, option) != get_option(defaults, option), option.key() == changed.key())
          << changed.key() << " changes " << option.key();
  }
}

TEST(ConfigTable, PrintedConfigurationReadsBackEqual) {
  Config config;
  const std::vector<Setting> settings{{"run.seed", "18446744073709551615", ""},
                                      {"distill.learning_rate", "3.3333333333333335e-07", ""},
                                      {"trajectories.negative_prompt", "blurry; low quality = bad", ""},
                                      {"distill.linear_branch", "no", ""},
                                      {"distill.phi_last_bias", "-2.5", ""}};
  ASSERT_TRUE(apply_settings(config, settings).empty());
  Config again;
  for (const ConfigOption& option : config_table()) set_option(again, option, get_option(config, option));
  EXPECT_EQ(to_ini(again), to_ini(config));
  EXPECT_EQ(again.run.seed, 18446744073709551615u);
  EXPECT_EQ(again.distill.learning_rate, 3.3333333333333335e-07);
  EXPECT_FALSE(again.distill.linear_branch);
  EXPECT_NE(to_ini(config), to_ini(Config{}));
}

TEST(ConfigTable, JsonKeepsTypes) {
  const nlohmann::ordered_json json = to_json(Config{});
  EXPECT_TRUE(json["run"]["seed"].is_number_unsigned());
  EXPECT_TRUE(json["distill"]["learning_rate"].is_number_float());
  EXPECT_TRUE(json["distill"]["linear_branch"].is_boolean());
  EXPECT_EQ(json["select"]["budget"], "0.7");
}

TEST(ConfigTable, HashNamesTheConfiguration) {
  Config changed;
  changed.run.seed = 1;
  EXPECT_EQ(config_hash(Config{}).size(), 32u);
  EXPECT_EQ(config_hash(Config{}), config_hash(Config{}));
  EXPECT_NE(config_hash(Config{}), config_hash(changed));
}

TEST(ConfigTable, LaterSettingsWin) {
  Config config;
  ASSERT_TRUE(apply_settings(config, {{"run.seed", "1", "a"}, {"run.seed", "2", "b"}}).empty());
  EXPECT_EQ(config.run.seed, 2u);
}

TEST(ConfigTable, UnknownKeysNameTheNearest) {
  EXPECT_EQ(fault_of("distil.rates", "2"),
            "test.cfg:3: unknown option distil.rates: did you mean distill.rates?");
  EXPECT_EQ(fault_of("finetune.learning-rate2", "1"),
            "test.cfg:3: unknown option finetune.learning-rate2: did you mean finetune.learning_rate?");
  EXPECT_EQ(fault_of("training.teacher_weight", "1"),
            "test.cfg:3: unknown option training.teacher_weight: did you mean finetune.teacher_weight?");
  EXPECT_EQ(fault_of("zzzzzz.qqqqqqqqqqq", "1"), "test.cfg:3: unknown option zzzzzz.qqqqqqqqqqq");
}

TEST(ConfigTable, ValuesOfTheWrongKindAreRefused) {
  EXPECT_EQ(fault_of("trajectories.steps", "many"),
            "test.cfg:3: trajectories.steps = 'many' is not an integer");
  EXPECT_EQ(fault_of("trajectories.steps", "5.5"),
            "test.cfg:3: trajectories.steps = '5.5' is not an integer");
  EXPECT_EQ(fault_of("run.seed", "-1"), "test.cfg:3: run.seed = '-1' is not a non-negative integer");
  EXPECT_EQ(fault_of("distill.learning_rate", "1e-3x"),
            "test.cfg:3: distill.learning_rate = '1e-3x' is not a number");
  EXPECT_EQ(fault_of("distill.learning_rate", "nan"),
            "test.cfg:3: distill.learning_rate = 'nan' is not a finite number");
  EXPECT_EQ(fault_of("distill.linear_branch", "maybe"),
            "test.cfg:3: distill.linear_branch = 'maybe' is neither true nor false");
  EXPECT_EQ(fault_of("trajectories.steps", "99999999999999999999"),
            "test.cfg:3: trajectories.steps = '99999999999999999999' is out of the range of an integer");
  EXPECT_NE(fault_of("trajectories.negative_prompt", "a # b"), "");
}

TEST(ConfigTable, ValuesOutOfRangeAreRefused) {
  EXPECT_EQ(fault_of("trajectories.steps", "0"), "test.cfg:3: trajectories.steps = '0' must be 1 to 1000");
  EXPECT_EQ(fault_of("finetune.text_dropout", "1.5"),
            "test.cfg:3: finetune.text_dropout = '1.5' must be 0 to 1");
  EXPECT_EQ(fault_of("distill.epochs", "0"), "test.cfg:3: distill.epochs = '0' must be at least 1");
  EXPECT_EQ(fault_of("distill.stabilizer", "maximum"),
            "test.cfg:3: distill.stabilizer = 'maximum' must be one of max, lse");
  EXPECT_EQ(fault_of("distill.stabilizer", "mas"),
            "test.cfg:3: distill.stabilizer = 'mas' must be one of max, lse (did you mean max?)");
}

TEST(ConfigTable, ClipSizesFitVaeAndPatches) {
  EXPECT_EQ(fault_of("generate.frames", "81"), "");
  EXPECT_NE(fault_of("generate.frames", "80").find("must be 4k+1"), std::string::npos);
  EXPECT_NE(fault_of("data.width", "100").find("multiple of 16"), std::string::npos);
}

TEST(ConfigTable, RatesBudgetsPinsAndCheckpointsAreRead) {
  for (const char* good : {"2", "2,4,8,linear", "linear", "3, 7"})
    EXPECT_EQ(fault_of("distill.rates", good), "") << good;
  for (const char* bad : {"", "0", "2,2", "1,2", "2;4", "fast"})
    EXPECT_NE(fault_of("distill.rates", bad), "") << bad;
  for (const char* good : {"0.7", "1", "1.2e12", "15xR4", "0xR2", "5xlinear", "70%", "850G"})
    EXPECT_EQ(fault_of("select.budget", good), "") << good;
  for (const char* bad : {"", "0", "-1", "15xR", "xR4", "15xR0", "70 X"})
    EXPECT_NE(fault_of("select.budget", bad), "") << bad;
  for (const char* good : {"", "0=1", "0=1,29=linear"}) EXPECT_EQ(fault_of("select.pins", good), "") << good;
  for (const char* bad : {"0", "0=", "=1", "0=1,0=2", "a=1", "-1=1"})
    EXPECT_NE(fault_of("select.pins", bad), "") << bad;
  EXPECT_EQ(fault_of("finetune.checkpoints", "100,200"), "");
  EXPECT_NE(fault_of("finetune.checkpoints", "200,100").find("increasing"), std::string::npos);
}

TEST(ConfigTable, SetsOfClipsAreRead) {
  for (const char* good : {"", "81x480x832", "81x480x832, 41x832x480"})
    EXPECT_EQ(fault_of("data.buckets", good), "") << good;
  for (const char* bad :
       {"81x480", "80x480x832", "81x481x832", "81x480x832,", "81x480x832,81x480x832", "5x16x99999"})
    EXPECT_NE(fault_of("data.buckets", bad), "") << bad;
  for (const char* good : {"", "own", "a", "own=1,a=2"}) EXPECT_EQ(fault_of("data.shards", good), "") << good;
  EXPECT_NE(fault_of("data.shards", "own=1,a").find("all of them one, or none"), std::string::npos);
  for (const char* good : {"0", "1", "2.5"}) EXPECT_EQ(fault_of("data.most_aspect", good), "") << good;
  for (const char* bad : {"0.5", "-1"}) EXPECT_NE(fault_of("data.most_aspect", bad), "") << bad;
  EXPECT_NE(fault_of("data.least_aesthetic", "-1"), "");
}

TEST(ConfigTable, ImpossibleCombinationsAreRefused) {
  EXPECT_NE(fault_of("finetune.micro_batch", "3").find("not a multiple"), std::string::npos);
  EXPECT_NE(fault_of("finetune.iterations", "500").find("finetune.checkpoints ends at 1000"),
            std::string::npos);
  EXPECT_NE(fault_of("select.column", "milliseconds").find("cost.measure"), std::string::npos);
  EXPECT_NE(fault_of("model.vae_tile_stride", "64").find("nothing without tiles"), std::string::npos);
  EXPECT_NE(fault_of("model.vae_tile", "100").find("multiple of 8"), std::string::npos);
  const auto gaps = faults_of({{"model.vae_tile", "64", "here"}, {"model.vae_tile_stride", "72", "here"}});
  ASSERT_EQ(gaps.size(), 1u);
  EXPECT_NE(gaps[0].find("pixels between"), std::string::npos) << gaps[0];
  EXPECT_NE(fault_of("distill.group_timesteps", "60").find("exceeds trajectories.steps"), std::string::npos);
}

TEST(ConfigTable, AllFaultsAreReportedTogether) {
  const std::vector<std::string> faults = faults_of({{"run.sede", "1", "a.cfg:2"},
                                                     {"run.seed", "x", "a.cfg:3"},
                                                     {"distill.epochs", "0", "b.cfg:9"},
                                                     {"finetune.micro_batch", "5", "command line"}});
  ASSERT_EQ(faults.size(), 4u);
  EXPECT_TRUE(faults[0].starts_with("a.cfg:2: ")) << faults[0];
  EXPECT_TRUE(faults[1].starts_with("a.cfg:3: ")) << faults[1];
  EXPECT_TRUE(faults[2].starts_with("b.cfg:9: ")) << faults[2];
  EXPECT_NE(faults[3].find("finetune.global_batch"), std::string::npos) << faults[3];
}

}  // namespace
}  // namespace surgery
