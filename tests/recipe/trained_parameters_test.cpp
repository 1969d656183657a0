#include "recipe/trained_parameters.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "base/errors.h"
#include "base/random.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

class TrainedParametersTest : public testing::Test {
 protected:
  TrainedParametersTest()
      : folder_(fs::temp_directory_path() /
                fmt::format("surgery-trained-{}-{}", ::getpid(),
                            testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::create_directories(folder_);
  }
  ~TrainedParametersTest() override { fs::remove_all(folder_); }

  static TensorMap initial() {
    return {{"blocks.0.weight", random_normal(RandomKey{1, 1}, {8, 12})},
            {"head", random_normal(RandomKey{1, 2}, {5})}};
  }
  static double loss_and_step(TensorMap& values, TrainedParameters& trained) {
    const auto loss =
        (values.at("blocks.0.weight") - 1).square().mean() + (values.at("head") + 2).square().mean();
    loss.backward();
    trained.step(0.02);
    return loss.item<double>();
  }
  const TrainingSettings settings_{.muon_prefix = "blocks.", .average_decay = 0.9};
  fs::path folder_;
};

TEST_F(TrainedParametersTest, BothUpdatesLowerALoss) {
  auto values = initial();
  TrainedParameters trained(values, settings_);
  const double first = loss_and_step(values, trained);
  double last = first;
  for (int i = 0; i < 150; ++i) last = loss_and_step(values, trained);
  EXPECT_LT(last, 0.3 * first);
}

TEST_F(TrainedParametersTest, ContinuesBitForBitFromItsFile) {
  auto values = initial(), again = initial();
  TrainedParameters straight(values, settings_);
  for (int i = 0; i < 5; ++i) loss_and_step(values, straight);
  straight.save(folder_ / "state.safetensors");
  TrainedParameters resumed(again, settings_);
  resumed.load(folder_ / "state.safetensors");
  EXPECT_EQ(resumed.step_count(), 5);
  for (int i = 0; i < 5; ++i) loss_and_step(values, straight), loss_and_step(again, resumed);
  for (const auto& [name, tensor] : straight.averaged())
    EXPECT_TRUE(at::equal(tensor, resumed.averaged().at(name))) << name;
  for (const auto& [name, tensor] : values) EXPECT_TRUE(at::equal(tensor, again.at(name))) << name;
}

TEST_F(TrainedParametersTest, RefusesTheStateOfAnotherModel) {
  auto values = initial();
  TrainedParameters(values, settings_).save(folder_ / "state.safetensors");
  TensorMap other{{"blocks.0.weight", at::ones({8, 13})}};
  TrainedParameters trained(other, settings_);
  try {
    trained.load(folder_ / "state.safetensors");
    FAIL() << "a foreign checkpoint was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("another model"), std::string::npos) << error.what();
  }
}

TEST_F(TrainedParametersTest, SkipsAnUpdateThatIsNotFinite) {
  auto values = initial();
  TrainedParameters trained(values, settings_);
  const auto before = values.at("head").detach().clone();
  (values.at("head") * std::numeric_limits<float>::infinity()).sum().backward();
  EXPECT_FALSE(std::isfinite(trained.step(0.1)));
  EXPECT_TRUE(at::equal(values.at("head").detach(), before));
}

TEST(Orthogonalized, BringsSingularValuesNearOne) {
  for (const auto& shape : std::vector<std::vector<int64_t>>{{2, 16, 16}, {2, 16, 40}, {2, 40, 16}}) {
    const auto singular = at::linalg_svdvals(orthogonalized(random_normal(RandomKey{3, 3}, shape)));
    EXPECT_LT(singular.max().item<double>(), 1.3);
    EXPECT_GT(singular.min().item<double>(), 0.3);
  }
}

}  // namespace
}  // namespace surgery
