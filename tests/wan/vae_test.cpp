// Wan's VAE: the whole clip and every plan of chunks are one function; sizes come from the configuration.
#include "wan/vae.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/errors.h"

namespace surgery {
namespace {

VaeConfig small_config(int64_t num_res_blocks = 1) {
  VaeConfig config;
  config.base_dim = 4;
  config.z_dim = 4;
  config.num_res_blocks = num_res_blocks;
  return config;
}

at::Tensor clip(int64_t frames, int64_t height = 16, int64_t width = 24, int64_t batch = 1) {
  return random_uniform(RandomKey{1}.with("clip"), {batch, 3, frames, height, width}) * 2 - 1;
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

/// The message of the Error{data} that `action` throws; empty if it throws none.
template <class Action>
std::string data_error(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "";
}

constexpr double kRounding = 5e-6;  // fp32 sums in another order

TEST(Vae, RealConfigurationHasTheKnownTensors) {
  const auto shapes = vae_parameter_shapes(VaeConfig{});
  int64_t parameters = 0;
  for (const auto& [name, shape] : shapes) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    parameters += count;
  }
  EXPECT_EQ(shapes.size(), 194u);
  EXPECT_EQ(parameters, 126892531);
  EXPECT_EQ(shapes.at("decoder.up_blocks.0.upsamplers.0.time_conv.weight"),
            (std::vector<int64_t>{768, 384, 3, 1, 1}));
}

TEST(Vae, LatentsAndVideoHaveTheStridesOfTheConfiguration) {
  const auto vae = Vae::random(small_config(), RandomKey{3});
  for (const int64_t frames : {1, 5, 9, 17}) {
    const auto posterior = vae.encode(clip(frames));
    const std::vector<int64_t> latent{1, 4, (frames - 1) / 4 + 1, 2, 3};
    EXPECT_EQ(posterior.mean.sizes(), at::IntArrayRef(latent));
    EXPECT_EQ(posterior.logvar.sizes(), at::IntArrayRef(latent));
    EXPECT_EQ(vae.decode(posterior.mean).sizes(), clip(frames).sizes());
  }
}

TEST(Vae, EveryChunkPlanEncodesAsTheWholeClip) {
  for (const int64_t blocks : {1, 2}) {
    const auto vae = Vae::random(small_config(blocks), RandomKey{4});
    const auto video = clip(17, 16, 24, 2);
    const auto whole = vae.encode_whole(video);
    for (const std::vector<int64_t>& plan : std::vector<std::vector<int64_t>>{
             {}, {1, 16}, {1, 8, 8}, {1, 4, 12}, {5, 12}, {9, 4, 4}, {13, 4}, {17}}) {
      const auto chunked = vae.encode(video, plan);
      EXPECT_LT(relative_difference(chunked.mean, whole.mean), kRounding);
      EXPECT_LT(relative_difference(chunked.logvar, whole.logvar), kRounding);
    }
  }
}

TEST(Vae, EveryChunkPlanDecodesAsTheWholeClip) {
  for (const int64_t blocks : {1, 2}) {
    const auto vae = Vae::random(small_config(blocks), RandomKey{5});
    const auto latents = random_normal(RandomKey{6}, {2, 4, 5, 2, 3});
    const auto whole = vae.decode_whole(latents).clamp(-1, 1);
    for (const std::vector<int64_t>& plan : std::vector<std::vector<int64_t>>{
             {}, {1, 4}, {1, 1, 3}, {2, 3}, {2, 1, 2}, {3, 1, 1}, {4, 1}, {5}}) {
      EXPECT_LT(relative_difference(vae.decode(latents, plan), whole), kRounding);
    }
  }
}

/// Wan2.1's own sizes, where convolutions take another path than with few channels; the whole clip with
/// gradient takes the folded one.
TEST(Vae, EveryChunkPlanIsTheSameFunctionAtWansSizes) {
  const auto vae = Vae::random(VaeConfig{}, RandomKey{15});
  const auto video = clip(13, 16, 24);
  const auto whole = vae.encode_whole(video);
  ASSERT_TRUE(at::GradMode::is_enabled());
  for (const std::vector<int64_t>& plan : std::vector<std::vector<int64_t>>{{}, {1, 12}, {5, 8}, {13}}) {
    const auto chunked = vae.encode(video, plan);
    EXPECT_LT(relative_difference(chunked.mean, whole.mean), 1e-5);
    EXPECT_LT(relative_difference(chunked.logvar, whole.logvar), 1e-5);
  }
  const auto latents = random_normal(RandomKey{16}, {1, 16, 4, 2, 3});
  const auto frames = vae.decode_whole(latents).clamp(-1, 1);
  for (const std::vector<int64_t>& plan : std::vector<std::vector<int64_t>>{{}, {1, 3}, {2, 2}, {4}})
    EXPECT_LT(relative_difference(vae.decode(latents, plan), frames), 1e-5);
}

TEST(Vae, EveryChunkPlanIsTheSameFunctionInTiles) {
  auto vae = Vae::random(small_config(), RandomKey{17});
  const auto video = clip(9, 40, 56);
  const auto whole = vae.encode(video);
  vae.set_tiling({32, 24});
  const auto tiled = vae.encode(video);
  EXPECT_EQ(tiled.mean.sizes(), whole.mean.sizes());
  EXPECT_FALSE(at::allclose(tiled.mean, whole.mean, 1e-3, 1e-3)) << "tiles do not see beyond their edges";
  EXPECT_LT(relative_difference(vae.encode(video, {5, 4}).mean, tiled.mean), kRounding);
  const auto latents = whole.mean;
  EXPECT_LT(relative_difference(vae.decode(latents, {3}), vae.decode(latents)), kRounding);
  EXPECT_EQ(vae.decode(latents).sizes(), video.sizes());
  vae.set_tiling({56, 8});  // the picture is one tile
  EXPECT_TRUE(at::equal(vae.encode(video).mean, whole.mean));
  for (const VaeTiling& wrong :
       {VaeTiling{12, 8}, VaeTiling{32, 40}, VaeTiling{32, 0}, VaeTiling{32, 12}, VaeTiling{-8, 8}})
    EXPECT_THROW(vae.set_tiling(wrong), Error) << wrong.tile << " " << wrong.stride;
}

TEST(Vae, LaterFramesDoNotChangeEarlierLatents) {
  const auto vae = Vae::random(small_config(), RandomKey{7});
  auto video = clip(9);
  const auto before = vae.encode(video).mean;
  video.slice(2, 5).zero_();
  const auto after = vae.encode(video).mean;
  EXPECT_TRUE(at::equal(before.slice(2, 0, 2), after.slice(2, 0, 2)));
  EXPECT_FALSE(at::equal(before.slice(2, 2), after.slice(2, 2)));
}

TEST(Vae, WholeClipGradientReachesEveryParameter) {
  auto vae = Vae::random(small_config(), RandomKey{8});
  for (auto& [name, tensor] : vae.parameters()) tensor.requires_grad_();
  const auto posterior = vae.encode_whole(clip(9));
  (vae.decode_whole(posterior.mean).square().mean() + posterior.logvar.square().mean()).backward();
  for (const auto& [name, tensor] : vae.parameters()) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_TRUE(tensor.grad().isfinite().all().item<bool>()) << name;
    // Softmax does not see the attention's key bias; all others must learn.
    if (name.ends_with("to_qkv.bias")) continue;
    EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << name;
  }
}

TEST(Vae, WholeClipGradientIsThatOfTheFunction) {
  VaeConfig config = small_config();
  config.base_dim = 2;
  auto vae = Vae::random(config, RandomKey{9});
  vae.to(at::kCPU, at::kDouble);
  const auto video = clip(5, 8, 8).to(at::kDouble);
  const auto loss = [&] { return vae.decode_whole(vae.encode_whole(video).mean).square().sum(); };
  for (const char* name :
       {"encoder.down_blocks.3.time_conv.weight", "decoder.up_blocks.0.resnets.0.norm1.gamma",
        "decoder.up_blocks.1.upsamplers.0.time_conv.weight", "encoder.conv_in.weight"}) {
    auto& weight = vae.parameters().at(name);
    weight.requires_grad_();
    const auto gradient = torch::autograd::grad({loss()}, {weight})[0].flatten()[0].item<double>();
    weight.requires_grad_(false);
    const double step = 1e-6;
    auto first = weight.view({-1})[0];
    first.add_(step);
    const double above = loss().item<double>();
    first.sub_(2 * step);
    const double below = loss().item<double>();
    first.add_(step);
    EXPECT_NEAR(gradient, (above - below) / (2 * step), 1e-5 * std::max(1.0, std::abs(gradient))) << name;
  }
}

TEST(Vae, NormalizeUndoesDenormalize) {
  auto config = small_config();
  config.latents_mean = {0.5, -1, 2, 0};
  config.latents_std = {2, 3, 0.5, 1};
  const auto vae = Vae::random(config, RandomKey{10});
  const auto latents = random_normal(RandomKey{11}, {1, 4, 2, 2, 2});
  const auto normal = vae.normalize(latents);
  EXPECT_LT(relative_difference(vae.denormalize(normal), latents), kRounding);
  // Code bases that keep 1/std have multiplied here.
  EXPECT_FLOAT_EQ(normal[0][1][0][0][0].item<float>(), (latents[0][1][0][0][0].item<float>() + 1) / 3);
  EXPECT_FLOAT_EQ(vae.denormalize(at::ones({1, 4, 1, 1, 1}))[0][1].item<float>(), 1 * 3 - 1);
}

TEST(Vae, SurvivesItsFolder) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("surgery-vae-{}", getpid());
  const auto vae = Vae::random(small_config(2), RandomKey{14});
  vae.save(folder / "vae", at::kFloat);
  const auto back = Vae::load(folder);  // the pipeline's folder
  EXPECT_EQ(back.config().to_json(), vae.config().to_json());
  for (const auto& [name, tensor] : vae.parameters()) {
    EXPECT_TRUE(at::equal(back.parameters().at(name), tensor)) << name;
  }
  vae.save(folder / "half", at::kBFloat16);
  auto half = Vae::load(folder / "half");  // the component's own folder
  half.to(at::kCPU, at::kFloat);           // own memory: may be trained further
  for (auto& [name, tensor] : half.parameters()) {
    EXPECT_EQ(tensor.scalar_type(), at::kFloat);
    EXPECT_TRUE(at::equal(tensor, vae.parameters().at(name).to(at::kBFloat16).to(at::kFloat))) << name;
    tensor.add_(1);
  }
  std::filesystem::remove_all(folder);
}

TEST(Vae, RefusesClipsThatDoNotFit) {
  const auto vae = Vae::random(small_config(), RandomKey{12});
  EXPECT_NE(data_error([&] { vae.encode(clip(8)); }).find("4k+1"), std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode_whole(clip(6)); }).find("cut the clip to 5"), std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode(clip(5, 12, 16)); }).find("multiples of 8"), std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode(clip(5, 16, 20)); }).find("multiples of 8"), std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode(clip(5)[0]); }).find("shape [3, 5, 16, 24]"), std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode(clip(5).narrow(1, 0, 1)); }).find("RGB"), std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode(clip(5).narrow(2, 0, 0)); }).find("0 frames"), std::string::npos);
  EXPECT_NE(data_error([&] {
              vae.decode(at::zeros({1, 16, 1, 2, 2}));
            }).find("4 latent channels"),
            std::string::npos);
  EXPECT_NE(data_error([&] {
              vae.decode(at::zeros({1, 4, 0, 2, 2}));
            }).find("shape [1, 4, 0, 2, 2]"),
            std::string::npos);
  EXPECT_NE(data_error([&] { vae.encode(clip(9), {1, 4}); }).find("add up"), std::string::npos);
  EXPECT_NE(data_error([&] {
              vae.encode(clip(9), {1, 6, 2});
            }).find("chunk 1 has 6 frames"),
            std::string::npos);
}

TEST(Vae, RefusesParametersOfAnotherConfiguration) {
  const auto vae = Vae::random(small_config(), RandomKey{13});
  auto missing = vae.parameters();
  missing.erase("quant_conv.bias");
  EXPECT_NE(data_error([&] { Vae(small_config(), missing); }).find("quant_conv.bias missing"),
            std::string::npos);
  auto foreign = vae.parameters();
  foreign["blocks.0.attn1.to_q.weight"] = at::zeros({1});
  EXPECT_NE(data_error([&] { Vae(small_config(), foreign); }).find("blocks.0.attn1.to_q.weight unexpected"),
            std::string::npos);
  auto shaped = vae.parameters();
  shaped["quant_conv.bias"] = at::zeros({9});
  EXPECT_NE(data_error([&] { Vae(small_config(), shaped); }).find("[9]"), std::string::npos);
  EXPECT_NE(data_error([&] { Vae(VaeConfig{}, vae.parameters()); }).find("instead of"), std::string::npos);
}

TEST(VaeConfig, SurvivesItsFile) {
  VaeConfig config = small_config(2);
  config.decoder_base_dim = 6;
  config.latents_mean = {0.25, 1e-3, -2, 0};
  config.latents_std = {1, 2, 3, 4.5};
  const auto back = VaeConfig::from_json(config.to_json(), "config.json");
  EXPECT_EQ(back.to_json(), config.to_json());
  EXPECT_EQ(back.decoder_base_dim, 6);
  EXPECT_EQ(back.time_stride(), 4);
  EXPECT_EQ(back.space_stride(), 8);
}

TEST(VaeConfig, TakesWansStatisticsWhereTheFileHasNone) {
  const auto config = VaeConfig::from_json("{}", "config.json");
  EXPECT_EQ(config.base_dim, 96);
  ASSERT_EQ(config.latents_mean.size(), 16u);
  EXPECT_EQ(config.latents_mean[15], -0.2921);
  EXPECT_EQ(config.latents_std[0], 2.8184);
}

TEST(VaeConfig, RefusesWhatIsNotThisVae) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"{", "not valid JSON"},
      {"[]", "not a JSON object"},
      {R"({"_class_name": "WanTransformer3DModel"})", "describes a WanTransformer3DModel"},
      {R"({"is_residual": true})", "\"is_residual\""},
      {R"({"patch_size": 2})", "\"patch_size\""},
      {R"({"attn_scales": [1.0]})", "\"attn_scales\""},
      {R"({"in_channels": 12})", "\"in_channels\""},
      {R"({"base_dim": "wide"})", "\"base_dim\""},
      {R"({"base_dim": 0})", "\"base_dim\" is 0"},
      {R"({"z_dim": 16.5})", "\"z_dim\" is 16.5"},
      {R"({"z_dim": 1e30})", "\"z_dim\" is 1e+30"},
      {R"({"dim_mult": [1, 2.5, 4, 4]})", "\"dim_mult\""},
      {R"({"base_dim": 1000000000})", "\"base_dim\""},
      {R"({"num_res_blocks": -1})", "\"num_res_blocks\" is -1"},
      {R"({"dim_mult": []})", "\"dim_mult (count)\" is 0"},
      {R"({"base_dim": 3, "dim_mult": [1, 1, 1, 1]})", "halves"},
      {R"({"temperal_downsample": [true]})", "\"temperal_downsample\" has 1"},
      {R"({"z_dim": 4})", "\"latents_mean\" has 16"},
      {R"({"z_dim": 1, "latents_mean": [NaN], "latents_std": [1]})", "not valid JSON"},
      {R"({"z_dim": 1, "latents_mean": [1e999], "latents_std": [1]})", "config.json"},
      {R"({"z_dim": 1, "latents_mean": [0], "latents_std": [0]})", "\"latents_std\" holds 0"},
  };
  for (const auto& [text, part] : cases) {
    const auto message = data_error([&, t = text] { VaeConfig::from_json(t, "config.json"); });
    EXPECT_NE(message.find(part), std::string::npos) << text << " -> " << message;
    EXPECT_EQ(message.find("config.json"), 0u) << message;
  }
}

}  // namespace
}  // namespace surgery
