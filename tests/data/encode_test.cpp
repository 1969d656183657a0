#include "data/encode.h"

#include "data/pixels.h"
#include "test_clips.h"

namespace surgery {
namespace {

class EncodeTest : public DataTest {
 protected:
  EncodeTest() : vae_(Vae::random(config(), {7, 0})) {}

  static VaeConfig config() {
    VaeConfig c;
    c.base_dim = 4;
    c.z_dim = 4;
    c.dim_mult = {1, 1, 1, 1};
    c.num_res_blocks = 1;
    c.latents_mean = {0.1, 0.2, 0.3, 0.4};
    c.latents_std = {1, 2, 1, 0.5};
    return c;
  }

  EncodeOptions options() const {
    EncodeOptions o;
    o.folder = file("shards");
    o.name = "set";
    o.samples_per_shard = 2;
    return o;
  }

  LatentSpace space() const { return latent_space(vae_.config(), "vae", "text", 8, 6); }

  /// A clip that is drawn; `bad` fails as a damaged file would.
  EncodeClip drawn(int64_t i, bool bad = false) {
    EncodeClip clip;
    clip.id = fmt::format("clip-{}", i);
    clip.caption = fmt::format("caption {}", i);
    clip.spec = clip_of(5, 16, 16);
    clip.fingerprint = "drawn";
    clip.load = [this, i, bad] {
      ++loaded_;
      if (bad) fail_data("clip-{}: damaged", i);
      return Clip{numbered_frames(5 + i, 16, 16).slice(0, i), {}, {}, 0};
    };
    return clip;
  }

  EmbedPrompt embed() const {
    return [](const std::string& prompt) {
      return at::full({static_cast<int64_t>(prompt.size()) % 8 + 1, 6}, static_cast<double>(prompt.back()));
    };
  }

  Vae vae_;
  int64_t loaded_ = 0;
};

TEST_F(EncodeTest, LatentsAreTheNormalisedPosteriorMean) {
  const auto plans = plan_shards({drawn(0), drawn(1), drawn(2)}, space(), options());
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[1].path, file("shards/set-00001-of-00002.h5"));
  for (const ShardPlan& plan : plans) EXPECT_EQ(encode_shard(plan, vae_, embed()).status, EncodeStatus::made);
  const LatentShard shard(plans[0].path);
  ASSERT_EQ(shard.size(), 2);
  shard.check_space(space());
  const LatentSample sample = shard.sample(1);
  const at::Tensor video = frames_to_video(numbered_frames(6, 16, 16).slice(0, 1));
  const at::Tensor mean = vae_.encode(video).mean;
  const at::Tensor expected = (mean - at::tensor({0.1f, 0.2f, 0.3f, 0.4f}).view({1, 4, 1, 1, 1})) /
                              at::tensor({1.f, 2.f, 1.f, 0.5f}).view({1, 4, 1, 1, 1});
  EXPECT_TRUE(at::allclose(sample.latents, expected[0], 1e-2, 1e-3));
  EXPECT_EQ(sample.latents.sizes().vec(), (std::vector<int64_t>{4, 2, 2, 2}));
  EXPECT_EQ(sample.prompt, "caption 1");
  EXPECT_TRUE(at::equal(sample.text, embed()("caption 1")));
  EXPECT_EQ(LatentShard(plans[1].path).sample(0).id, "clip-2");
}

TEST_F(EncodeTest, CompleteShardsAreNotMadeAgain) {
  const auto plans = plan_shards({drawn(0), drawn(1)}, space(), options());
  encode_shard(plans[0], vae_, embed());
  const EncodeResult again = encode_shard(plans[0], vae_, embed());
  EXPECT_EQ(again.status, EncodeStatus::reused);
  EXPECT_EQ(again.samples, 2);
  EXPECT_EQ(loaded_, 2);
}

TEST_F(EncodeTest, AShardFromOtherThingsIsSetAsideAndMadeAgain) {
  encode_shard(plan_shards({drawn(0)}, space(), options())[0], vae_, embed());
  EncodeClip other = drawn(0);
  other.caption = "another caption";
  EXPECT_EQ(encode_shard(plan_shards({other}, space(), options())[0], vae_, embed()).status,
            EncodeStatus::made);
  LatentSpace trained_on = space();
  trained_on.vae_hash = "another";
  const auto plan = plan_shards({other}, trained_on, options())[0];
  EXPECT_EQ(encode_shard(plan, vae_, embed()).status, EncodeStatus::made);
  EXPECT_TRUE(std::filesystem::exists(file("shards/set-00000-of-00001.h5.bad")));
  EXPECT_TRUE(std::filesystem::exists(file("shards/set-00000-of-00001.h5.bad.1")));
}

TEST_F(EncodeTest, HowTheVaeComputesIsPartOfTheFingerprint) {
  EncodeOptions tiles = options();
  const std::string before = plan_shards({drawn(0)}, space(), tiles)[0].header.fingerprint;
  tiles.settings = " vae tiles 256 192";
  EXPECT_NE(plan_shards({drawn(0)}, space(), tiles)[0].header.fingerprint, before);
}

TEST_F(EncodeTest, ADamagedShardIsSetAsideAndMadeAgain) {
  const auto plan = plan_shards({drawn(0), drawn(1)}, space(), options())[0];
  encode_shard(plan, vae_, embed());
  const std::string whole = slurp(plan.path);
  write("shards/set-00000-of-00001.h5", whole.substr(0, whole.size() / 2));
  EXPECT_EQ(encode_shard(plan, vae_, embed()).status, EncodeStatus::made);
  EXPECT_EQ(slurp(plan.path), whole);
  EXPECT_TRUE(std::filesystem::exists(plan.path.string() + ".bad"));
}

TEST_F(EncodeTest, BadClipsAreListedAndSkipped) {
  EncodeClip wrong = drawn(3);
  wrong.load = [] { return Clip{at::zeros({5, 16, 24, 3}, at::kByte), {}, {}, 0}; };
  EncodeOptions one = options();
  one.samples_per_shard = 10;
  const auto plan = plan_shards({drawn(0), drawn(1, true), drawn(2), wrong}, space(), one)[0];
  const EncodeResult result = encode_shard(plan, vae_, embed());
  EXPECT_EQ(result.samples, 2);
  ASSERT_EQ(result.rejected.size(), 2u);
  EXPECT_EQ(result.rejected[0].where, "clip-1");
  const std::string rejects = slurp(shard_rejects(plan.path));
  EXPECT_NE(rejects.find("clip-1\tclip-1: damaged\n"), std::string::npos) << rejects;
  EXPECT_NE(rejects.find("clip-3\tframes have shape 5x16x24x3, expected 5x16x16x3\n"), std::string::npos)
      << rejects;
  EXPECT_EQ(LatentShard(plan.path).sample(1).id, "clip-2");
}

TEST_F(EncodeTest, AShardOfOnlyBadClipsIsDoneToo) {
  const auto plan = plan_shards({drawn(0, true)}, space(), options())[0];
  EXPECT_EQ(encode_shard(plan, vae_, embed()).samples, 0);
  EXPECT_EQ(encode_shard(plan, vae_, embed()).status, EncodeStatus::reused);
  EXPECT_EQ(loaded_, 1);
}

TEST_F(EncodeTest, AFailureOfTheMachineIsNotTheClipsFault) {
  EncodeClip clip = drawn(0);
  clip.load = []() -> Clip { fail_io("disk is gone"); };
  const auto plan = plan_shards({clip}, space(), options())[0];
  expect_failure([&] { encode_shard(plan, vae_, embed()); }, ExitCode::io, {"disk is gone"});
  EXPECT_FALSE(shard_complete(plan));
}

TEST_F(EncodeTest, AStoppedShardLeavesNothing) {
  const auto plan = plan_shards({drawn(0), drawn(1)}, space(), options())[0];
  EXPECT_EQ(encode_shard(plan, vae_, embed(), [&] { return loaded_ == 1; }).status, EncodeStatus::stopped);
  EXPECT_TRUE(std::filesystem::is_empty(file("shards")));
}

TEST_F(EncodeTest, ClipsOfDifferentShapesGoToDifferentShards) {
  EncodeClip long_clip = drawn(1);
  long_clip.spec.frames = 9;
  const auto plans = plan_shards({drawn(0), long_clip, drawn(2), drawn(3)}, space(), options());
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[0].clips[1].id, "clip-2");
  EXPECT_EQ(plans[1].clips[0].id, "clip-3");
  EXPECT_EQ(plans[2].header.frames, 9);
  expect_failure([&] { plan_shards({}, space(), options()); }, ExitCode::data, {"no clip"});
}

TEST_F(EncodeTest, AnnotatedFilesBecomeShards) {
  SKIP_WITHOUT_VIDEO();
  write_mp4(file("a.mp4"), numbered_frames(9, 32, 48));
  write("cut.mp4", slurp(file("a.mp4")).substr(0, 500));
  write("anno.json",
        R"([{"path": "a.mp4", "cap": "a gray plane", "fps": 16}, {"path": "cut.mp4", "cap": "nothing"},
                         {"path": "gone.mp4", "cap": "nothing"}])");
  write("data.txt", ".,anno.json\n");
  EncodeOptions one = options();
  one.samples_per_shard = 10;
  const auto rules =
      std::make_shared<const ClipRules>(ClipRules{.buckets = {{5, 16, 16}}, .may_enlarge = true});
  std::vector<EncodeClip> clips;
  for (const ManifestRecord& record : read_manifest(file("data.txt")).records)
    clips.push_back(encode_clip(record, rules, {.enlarged = true}, {1, 0}));
  const auto plan = plan_shards(clips, space(), one)[0];
  const EncodeResult result = encode_shard(plan, vae_, embed());
  EXPECT_EQ(result.samples, 1);
  EXPECT_EQ(result.rejected.size(), 2u);
  const LatentSample sample = LatentShard(plan.path).sample(0);
  EXPECT_EQ(sample.prompt, "a gray plane");
  EXPECT_EQ(sample.source_width, 48);
  EXPECT_EQ(sample.crop, (Box{8, 40, 0, 32}));
}

}  // namespace
}  // namespace surgery
