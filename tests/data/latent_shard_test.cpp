#include "data/latent_shard.h"

#include <fmt/ranges.h>

#include <array>

#include "base/random.h"
#include "storage/hdf5_file.h"
#include "test_clips.h"

namespace surgery {
namespace {

LatentSpace small_space() {
  return {"vae-hash", "text-hash", {0.1, 0.2, 0.3, 0.4}, {1, 2, 3, 4}, 8, 6};
}

LatentSample sample_of(uint64_t seed, int64_t rows) {
  LatentSample sample;
  sample.latents = random_normal({seed, 1}, {4, 5, 6, 7});
  sample.text = random_normal({seed, 2}, {rows, 6});
  sample.prompt = fmt::format("prompt {} \xE4\xBA\xBA", seed);
  sample.id = fmt::format("clip-{}.mp4", seed);
  sample.source_fps = 29.97;
  sample.start_seconds = 1.5;
  sample.source_height = 720;
  sample.source_width = 1280;
  sample.crop = {100, 1180, 0, 720};
  return sample;
}

class LatentShardTest : public DataTest {
 protected:
  void write_shard(const std::string& name, int64_t samples) const {
    ShardHeader header;
    header.space = small_space();
    header.frames = 17;
    header.height = 48;
    header.width = 56;
    header.source = "a test";
    header.fingerprint = "print";
    LatentShardWriter writer(file(name), header);
    for (int64_t i = 0; i < samples; ++i) writer.add(sample_of(static_cast<uint64_t>(i), 1 + i));
    writer.commit();
  }
};

TEST_F(LatentShardTest, SamplesComeBackRoundedToBfloat16) {
  write_shard("a.h5", 3);
  EXPECT_EQ(listing(), std::vector<std::string>{"a.h5"});
  for (const auto verify : {LatentShard::Verify::header, LatentShard::Verify::full}) {
    const LatentShard shard(file("a.h5"), verify);
    ASSERT_EQ(shard.size(), 3);
    EXPECT_EQ(shard.header().space, small_space());
    EXPECT_EQ(shard.header().fingerprint, "print");
    EXPECT_EQ(shard.header().frames, 17);
    EXPECT_EQ(shard.latent_shape(), (std::vector<int64_t>{4, 5, 6, 7}));
    for (int64_t i = 0; i < 3; ++i) {
      const LatentSample expected = sample_of(static_cast<uint64_t>(i), 1 + i), found = shard.sample(i);
      EXPECT_TRUE(at::equal(found.latents, expected.latents.to(at::kBFloat16).to(at::kFloat)));
      EXPECT_TRUE(at::equal(found.text, expected.text.to(at::kBFloat16).to(at::kFloat)));
      EXPECT_EQ(found.prompt, expected.prompt);
      EXPECT_EQ(found.id, expected.id);
      EXPECT_EQ(found.source_fps, 29.97);
      EXPECT_EQ(found.source_width, 1280);
      EXPECT_EQ(found.crop, expected.crop);
    }
  }
}

TEST_F(LatentShardTest, AShardOfNoSampleIsWholeToo) {
  write_shard("a.h5", 0);
  EXPECT_EQ(LatentShard(file("a.h5"), LatentShard::Verify::full).size(), 0);
}

TEST_F(LatentShardTest, EqualSamplesGiveEqualBytes) {
  write_shard("a.h5", 2);
  write_shard("b.h5", 2);
  EXPECT_EQ(slurp(file("a.h5")), slurp(file("b.h5")));
}

TEST_F(LatentShardTest, AnotherModelsLatentsAreRefused) {
  write_shard("a.h5", 1);
  const LatentShard shard(file("a.h5"));
  shard.check_space(small_space());
  LatentSpace other = small_space();
  other.vae_hash = "other";
  expect_failure([&] { shard.check_space(other); }, ExitCode::data,
                 {"a.h5", "another VAE", "vae-hash", "other"});
  other = small_space();
  other.text_hash = "other";
  expect_failure([&] { shard.check_space(other); }, ExitCode::data, {"a.h5", "another text encoder"});
  other = small_space();
  other.latents_mean[0] = 5;
  expect_failure([&] { shard.check_space(other); }, ExitCode::data, {"statistics"});
}

TEST_F(LatentShardTest, AFileThatDoesNotTellItsNormalisationIsRefused) {
  {
    Hdf5Writer writer(file("a.h5"), "surgery-latents", 1);
    writer.attribute("samples", int64_t{0});
    writer.commit();
  }
  expect_failure([&] { LatentShard shard(file("a.h5")); }, ExitCode::data, {"a.h5", "latent_normalized"});
  {
    Hdf5Writer writer(file("b.h5"), "surgery-latents", 1);
    writer.attribute("latent_normalized", int64_t{0});
    writer.commit();
  }
  expect_failure([&] { LatentShard shard(file("b.h5")); }, ExitCode::data, {"b.h5", "not normalised"});
}

TEST_F(LatentShardTest, ForeignAndMissingFilesAreRefused) {
  expect_failure([&] { LatentShard shard(file("none.h5")); }, ExitCode::io, {"none.h5"});
  write("text.h5", "not HDF5");
  expect_failure([&] { LatentShard shard(file("text.h5")); }, ExitCode::data, {"text.h5"});
  {
    Hdf5Writer writer(file("other.h5"), "surgery-trajectory", 1);
    writer.commit();
  }
  expect_failure([&] { LatentShard shard(file("other.h5")); }, ExitCode::data,
                 {"other.h5", "surgery-trajectory"});
}

TEST_F(LatentShardTest, DamageIsSeenWhenTheSampleIsRead) {
  write_shard("a.h5", 3);
  const std::string whole = slurp(file("a.h5"));
  // The words of sample 1's latents, wherever HDF5 has put them.
  const at::Tensor words = sample_of(1, 2).latents.to(at::kBFloat16).contiguous();
  const size_t place = whole.find(std::string(static_cast<const char*>(words.const_data_ptr()), 64));
  ASSERT_NE(place, std::string::npos);
  std::string damaged = whole;
  damaged[place + 10] = static_cast<char>(damaged[place + 10] ^ 1);
  write("a.h5", damaged);
  const LatentShard shard(file("a.h5"));
  EXPECT_NO_THROW(shard.sample(0));
  expect_failure([&] { shard.sample(1); }, ExitCode::data,
                 {"a.h5", "checksum differs", "latents of sample 1"});
  expect_failure([&] { LatentShard full(file("a.h5"), LatentShard::Verify::full); }, ExitCode::data,
                 {"a.h5"});
}

/// Everything that a shard tells: header and samples.
std::string content_of(const std::filesystem::path& path) {
  const LatentShard shard(path, LatentShard::Verify::full);
  const ShardHeader& h = shard.header();
  std::string content =
      fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {}", shard.size(), h.fps, h.frames, h.height,
                  h.width, h.source, h.fingerprint, h.space.vae_hash, h.space.text_hash,
                  fmt::join(h.space.latents_mean, ","), fmt::join(h.space.latents_std, ","),
                  h.space.text_length, h.space.text_dim, fmt::join(shard.latent_shape(), "x"));
  for (int64_t i = 0; i < shard.size(); ++i) {
    const LatentSample s = shard.sample(i);
    content += fmt::format("|{} {} {} {} {} {} {} {} {} {} ", s.prompt, s.id, s.source_fps, s.start_seconds,
                           s.source_height, s.source_width, s.crop.x0, s.crop.x1, s.crop.y0, s.crop.y1);
    for (const at::Tensor& part : {s.latents, s.text})
      content.append(static_cast<const char*>(part.const_data_ptr()), part.nbytes());
  }
  return content;
}

TEST_F(LatentShardTest, NoDamageCrashesOrGoesUnseen) {
  write_shard("a.h5", 2);
  const std::string whole = slurp(file("a.h5")), expected = content_of(file("a.h5"));
  int64_t refused = 0, unharmed = 0;
  const auto check = [&](const std::string& damaged, const std::string& what) {
    write("b.h5", damaged);
    try {
      EXPECT_TRUE(content_of(file("b.h5")) == expected) << what << " goes unseen";
      ++unharmed;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data) << what << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find("b.h5"), std::string::npos) << error.what();
      ++refused;
    }
  };
  for (size_t length = 0; length < whole.size(); length += 64)
    check(whole.substr(0, length), fmt::format("cut to {} of {} bytes", length, whole.size()));
  EXPECT_EQ(unharmed, 0) << "the end is missing";
  const std::array<int, 3> masks{0x01, 0x80, 0xFF};
  for (size_t i = 0; i < whole.size(); i += 7) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ masks[i % masks.size()]);
    check(damaged, fmt::format("byte {} changed by {:#x}", i, masks[i % masks.size()]));
  }
  EXPECT_GT(unharmed, 0) << "what lies between the parts is not looked at";
  EXPECT_GT(refused, 2 * unharmed);
}

TEST_F(LatentShardTest, WrongSamplesAreRefused) {
  ShardHeader header;
  header.space = small_space();
  LatentShardWriter writer(file("a.h5"), header);
  writer.add(sample_of(1, 2));
  LatentSample wrong = sample_of(2, 2);
  wrong.latents = at::zeros({4, 5, 6, 8});
  expect_failure([&] { writer.add(wrong); }, ExitCode::data, {"clip-2.mp4", "one shape"});
  wrong.latents = at::zeros({3, 5, 6, 7});
  expect_failure([&] { writer.add(wrong); }, ExitCode::data, {"expected [4, T, H, W]"});
  expect_failure([&] { writer.add(sample_of(3, 9)); }, ExitCode::data, {"text rows", "[1..8, 6]"});
  wrong = sample_of(4, 2);
  wrong.latents[0][0][0][0] = NAN;
  expect_failure([&] { writer.add(wrong); }, ExitCode::data, {"not finite"});
  EXPECT_EQ(writer.size(), 1);
}

TEST_F(LatentShardTest, AFolderListsItsShards) {
  expect_failure([&] { list_shards(file("none")); }, ExitCode::io, {"none", "encode the clips first"});
  expect_failure([&] { list_shards(folder_); }, ExitCode::io, {"holds no latent shard"});
  write_shard(shard_name("set", 1, 2), 1);
  write_shard(shard_name("set", 0, 2), 1);
  write("set-00000-of-00002.h5.bad", "x");
  const auto shards = list_shards(folder_);
  ASSERT_EQ(shards.size(), 2u);
  EXPECT_EQ(shards[0].filename(), "set-00000-of-00002.h5");
}

}  // namespace
}  // namespace surgery
