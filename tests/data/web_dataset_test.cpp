#include "data/web_dataset.h"

#include <limits>

#include "base/random.h"
#include "data/latent_statistics.h"
#include "storage/tar_builder.h"
#include "storage/torch_archive.h"
#include "test_clips.h"

namespace surgery {
namespace {

const LatentSpace kSpace{"vae-hash", "text-hash", {1, -2}, {3, 0.4}, 8, 6};
const std::vector<int64_t> kShape{2, 3, 4, 5};

/// As torch.save(tensor, ...) writes it.
std::string saved(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  const char* type = "FloatStorage";
  if (whole.scalar_type() == at::kBFloat16) type = "BFloat16Storage";
  if (whole.scalar_type() == at::kHalf) type = "HalfStorage";
  if (whole.scalar_type() == at::kLong) type = "LongStorage";
  const std::string bytes(static_cast<const char*>(whole.const_data_ptr()), whole.nbytes());
  const std::string tensor_text =
      tensor_op(storage_op(type, "0", whole.numel()), 0, whole.sizes().vec(), whole.strides().vec());
  return build_zip(torch_parts(pickle_of(tensor_text), {bytes})).bytes;
}
at::Tensor latents_of(uint64_t seed) {
  return random_normal({seed, 1}, kShape);
}
/// `real` rows, then zeros up to 8.
at::Tensor text_of(uint64_t seed, int64_t real) {
  at::Tensor rows = at::zeros({8, 6});
  rows.slice(0, 0, real).copy_(random_normal({seed, 2}, {real, 6}));
  return rows;
}
std::vector<TarPart> sample_parts(const std::string& key, uint64_t seed) {
  return {{key + ".latent.pt", saved(latents_of(seed).to(at::kBFloat16))},
          {key + ".embed.pt", saved(text_of(seed, 5).to(at::kBFloat16))},
          {key + ".prompt.txt", "prompt " + key}};
}

class WebDatasetTest : public DataTest {
 protected:
  std::filesystem::path write_tar(const std::string& name, const std::vector<TarPart>& parts) const {
    return write(name, build_tar(parts));
  }
  /// Keys 0, 1, ...
  std::filesystem::path write_samples(const std::string& name, int64_t count) const {
    std::vector<TarPart> parts;
    for (int64_t i = 0; i < count; ++i)
      for (TarPart& part : sample_parts(fmt::format("{:09}", i), static_cast<uint64_t>(i)))
        parts.push_back(std::move(part));
    return write_tar(name, parts);
  }
  LatentSample only_sample(const std::vector<TarPart>& parts) const {
    return WebShard(write_tar("one.tar", parts)).sample(0, kShape, kSpace);
  }
  void expect_rejected(std::vector<TarPart> parts, const std::string& reason) const {
    expect_failure([&] { only_sample(parts); }, ExitCode::data, {reason});
  }
  EncodeResult convert(const std::filesystem::path& tar, int64_t samples = 0,
                       const std::function<bool()>& stop = {}) const {
    ShardPlan plan;
    plan.path = file("out.h5");
    plan.header = {
        .space = kSpace, .frames = 9, .height = 32, .width = 40, .source = "a test", .fingerprint = "f"};
    return convert_web_shard({.tar = tar, .samples = samples, .latent_shape = kShape}, plan, stop);
  }
};

TEST_F(WebDatasetTest, SamplesComeBackTrimmedAndRounded) {
  const auto tar = write_samples("shard_000000.tar", 3);
  const EncodeResult result = convert(tar);
  EXPECT_EQ(result.samples, 3);
  EXPECT_TRUE(result.rejected.empty());
  const LatentShard shard(file("out.h5"), LatentShard::Verify::full);
  ASSERT_EQ(shard.size(), 3);
  EXPECT_EQ(shard.header().fps, 16);
  for (int64_t i = 0; i < 3; ++i) {
    const LatentSample sample = shard.sample(i);
    const auto seed = static_cast<uint64_t>(i);
    EXPECT_TRUE(at::equal(sample.latents, latents_of(seed).to(at::kBFloat16).to(at::kFloat)));
    EXPECT_TRUE(at::equal(sample.text, text_of(seed, 5).slice(0, 0, 5).to(at::kBFloat16).to(at::kFloat)));
    EXPECT_EQ(sample.prompt, fmt::format("prompt {:09}", i));
    EXPECT_EQ(sample.id, fmt::format("shard_000000.tar/{:09}", i));
    EXPECT_EQ(sample.crop, (Box{0, 40, 0, 32}));
  }
}

TEST_F(WebDatasetTest, EveryFloatAndNameIsRead) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    std::vector<TarPart> parts = sample_parts("deep/folder.v2/a", 1);
    parts[0] = {"deep/folder.v2/a.latent.pth", saved(latents_of(1).to(type))};
    parts[1] = {"deep/folder.v2/a.embed.pth", saved(text_of(1, 8).to(type))};
    parts.insert(parts.begin() + 1, {"deep/folder.v2/a.json", "{}"});
    const LatentSample sample = only_sample(parts);
    EXPECT_TRUE(at::equal(sample.latents, latents_of(1).to(type)));
    EXPECT_EQ(sample.text.size(0), 8) << "nothing to trim";
    EXPECT_EQ(sample.id, "one.tar/deep/folder.v2/a");
  }
  std::vector<TarPart> parts = sample_parts("a", 1);
  at::Tensor rows = text_of(1, 5);
  rows[2].zero_();
  parts[1].bytes = saved(rows);
  EXPECT_TRUE(at::equal(only_sample(parts).text, rows.slice(0, 0, 5)))
      << "a zero row before a real one stays";
  parts[1].bytes = saved(text_of(1, 3).slice(0, 0, 3));
  EXPECT_EQ(only_sample(parts).text.size(0), 3) << "rows without padding";
}

TEST_F(WebDatasetTest, WhatCannotBeUsedIsRejectedWithItsReason) {
  const auto with = [](size_t part, const std::string& bytes) {
    std::vector<TarPart> parts = sample_parts("a", 1);
    parts[part].bytes = bytes;
    return parts;
  };
  expect_rejected(with(0, saved(at::zeros({2, 3, 4, 6}))),
                  "latent: has shape 2x3x4x6, this run's clips 2x3x4x5");
  expect_rejected(with(0, saved(at::zeros({1, 2, 3, 4, 5}))), "latent: has shape 1x2x3x4x5");
  expect_rejected(with(0, saved(at::zeros(kShape, at::kLong))), "latent: its numbers are Long");
  at::Tensor bad = latents_of(1);
  bad[1][2][3][4] = std::numeric_limits<float>::quiet_NaN();
  expect_rejected(with(0, saved(bad)), "latent: holds numbers that are not finite");
  expect_rejected(with(0, "no archive at all"), "latent: does not begin like a zip archive");
  expect_rejected(with(1, saved(at::ones({9, 6}))), "embed: has shape 9x6, the model's text 8x6");
  expect_rejected(with(1, saved(at::ones({8, 7}))), "embed: has shape 8x7");
  expect_rejected(with(1, saved(at::ones({6}))), "embed: has shape 6");
  expect_rejected(with(1, saved(at::zeros({8, 6}))), "embed: all its rows are zero");
  at::Tensor rows = text_of(1, 5);
  rows[7][5] = std::numeric_limits<float>::infinity();
  expect_rejected(with(1, saved(rows)), "embed: holds numbers that are not finite");
  expect_rejected(with(2, "caf\xe9"), "prompt: is not UTF-8");
  expect_rejected(with(2, std::string(70'000, 'x')), "prompt: is longer than");
  for (const auto& [part, name] : {std::pair{1, "embed.pt"}, std::pair{2, "prompt.txt"}}) {
    std::vector<TarPart> parts = sample_parts("a", 1);
    parts.erase(parts.begin() + part);
    expect_rejected(parts, fmt::format("has no {}", name));
  }
  std::vector<TarPart> parts = sample_parts("a", 1);
  parts.push_back({"a.latent.pth", parts[0].bytes});
  expect_rejected(parts, "has latent.pt twice");
}

TEST_F(WebDatasetTest, TheRestOfAShardIsUsed) {
  std::vector<TarPart> parts = sample_parts("0", 0);
  for (const auto& [key, seed] : {std::pair{"1", 1}, std::pair{"2", 2}, std::pair{"line\nbreak", 3}})
    for (const TarPart& part : sample_parts(key, static_cast<uint64_t>(seed))) parts.push_back(part);
  parts[3].bytes = "damaged";                              // the latents of 1
  parts.back().bytes = "\xff";                             // the last prompt
  parts.push_back({"0.prompt.txt.more", "of no sample"});  // a key that was there before
  parts.insert(parts.begin(), {"README.md", "about this set"});
  parts.erase(parts.begin() + 8);  // the text rows of 2
  const EncodeResult result = convert(write_tar("shard0.tar", parts));
  EXPECT_EQ(result.samples, 1);
  ASSERT_EQ(result.rejected.size(), 3u);
  EXPECT_EQ(result.rejected[0].where, "shard0.tar/1");
  EXPECT_EQ(result.rejected[1].reason, "has no embed.pt");
  EXPECT_EQ(shard_rejected(file("out.h5")), 3) << "a line each, whatever a key holds";
  const std::string list = slurp(file("out.rejects.txt"));
  EXPECT_NE(list.find("shard0.tar/1\tlatent: does not begin like a zip archive"), std::string::npos) << list;
  EXPECT_NE(list.find("shard0.tar/2\thas no embed.pt\n"), std::string::npos) << list;
}

TEST_F(WebDatasetTest, LatentsThatWereNotNormalisedAreRefused) {
  const at::Tensor mean = at::tensor({1.0, -2.0}).reshape({2, 1, 1, 1}),
                   std = at::tensor({3.0, 0.4}).reshape({2, 1, 1, 1});
  std::vector<TarPart> parts = sample_parts("a", 1);
  const at::Tensor raw = latents_of(1) * std + mean;
  parts[0].bytes = saved(raw.to(at::kFloat));
  const auto tar = write_tar("raw.tar", parts);
  expect_failure([&] { convert(tar); }, ExitCode::data, {"raw.tar", "are not normalised"});
  EXPECT_EQ(listing(), std::vector<std::string>{"raw.tar"}) << "nothing is left";
  // Half or twice the usual contrast, of Wan2.1's own statistics, is still told apart.
  LatentSpace wan{"", "", {-0.7571, 1.5508, 0.1075, -0.9497}, {2.8184, 2.0743, 2.6558, 1.1253}, 8, 6};
  for (const double contrast : {0.7, 1.0, 1.5}) {
    LatentStatistics normalised, not_normalised;
    const at::Tensor latents = random_normal({7, 1}, {4, 5, 12, 20}) * contrast;
    normalised.add(latents);
    const auto options = at::TensorOptions(at::kDouble);
    not_normalised.add(latents * at::tensor(wan.latents_std, options).reshape({4, 1, 1, 1}) +
                       at::tensor(wan.latents_mean, options).reshape({4, 1, 1, 1}));
    EXPECT_LT(normalised.raw_evidence(wan), -kRawEvidence) << contrast;
    EXPECT_GT(not_normalised.raw_evidence(wan), 2 * kRawEvidence) << contrast;
  }
  EXPECT_EQ(LatentStatistics().raw_evidence(wan), 0);
}

TEST_F(WebDatasetTest, FoldersAreListedAndCounted) {
  EXPECT_TRUE(is_web_dataset(folder_));
  EXPECT_TRUE(is_web_dataset("nowhere/shard.tar"));
  EXPECT_FALSE(is_web_dataset("data.txt"));
  EXPECT_FALSE(is_web_dataset("shapes:train"));
  expect_failure([&] { list_web_shards(folder_); }, ExitCode::io, {"holds no .tar"});
  expect_failure([&] { list_web_shards(file("a.tar")); }, ExitCode::io, {"a.tar: no such file"});
  write_samples("shard_000001.tar", 2);
  write_samples("shard_000000.tar", 3);
  write("shard_000002.tar.tmp", "half");
  write("index.json", "{}");
  const auto plans = [&](int64_t count) {
    std::vector<std::pair<std::string, int64_t>> result;
    for (const WebPlan& plan : plan_web_shards(folder_, count))
      result.emplace_back(plan.tar.filename().string(), plan.samples);
    return result;
  };
  using Plans = std::vector<std::pair<std::string, int64_t>>;
  EXPECT_EQ(plans(0), (Plans{{"shard_000000.tar", 0}, {"shard_000001.tar", 0}}));
  EXPECT_EQ(plans(2), (Plans{{"shard_000000.tar", 2}}));
  EXPECT_EQ(plans(3), (Plans{{"shard_000000.tar", 0}}));
  EXPECT_EQ(plans(4), (Plans{{"shard_000000.tar", 0}, {"shard_000001.tar", 1}}));
  EXPECT_EQ(plans(99), (Plans{{"shard_000000.tar", 0}, {"shard_000001.tar", 0}}));
  EXPECT_EQ(plan_web_shards(file("shard_000001.tar"), 0).size(), 1u);
  EXPECT_EQ(convert(file("shard_000000.tar"), 2).samples, 2);
}

TEST_F(WebDatasetTest, ForeignShardsAreNamedWithWhatToDo) {
  const auto refused = [&](const std::filesystem::path& tar, ExitCode code,
                           const std::vector<std::string>& parts) {
    expect_failure([&] { WebShard shard(tar); }, code, parts);
  };
  refused(write_tar("videos.tar", {{"a.mp4", "..."}, {"a.txt", "a caption"}}), ExitCode::data,
          {"videos.tar: holds videos, not latents", "of their own"});
  refused(write_tar("other.tar", {{"a.jpg", "..."}, {"README", "x"}}), ExitCode::data, {"holds no sample"});
  refused(write_tar("empty.tar", {}), ExitCode::data, {"holds no sample"});
  refused(write_tar("text.tar", {{"a.prompt.txt", "x"}}), ExitCode::data, {"holds no sample"});
  refused(file("none.tar"), ExitCode::io, {"none.tar"});
}

TEST_F(WebDatasetTest, OfADamagedShardIsUsedWhatLiesBeforeTheFault) {
  const std::string whole = slurp(write_samples("whole.tar", 3));
  int64_t most = 0;
  for (size_t length = 0; length < whole.size(); length += 512) {
    const auto cut = write("cut.tar", whole.substr(0, length));
    const EncodeResult result = convert(cut);
    EXPECT_GE(result.samples, most) << length;
    most = result.samples;
    ASSERT_GE(result.rejected.size(), 1u) << length;
    EXPECT_EQ(result.rejected.back().where, "cut.tar");
    EXPECT_EQ(result.rejected.back().kind, "bad shard");
    EXPECT_LE(result.rejected.size(), 2u) << "the sample that is cut through";
    EXPECT_EQ(LatentShard(file("out.h5"), LatentShard::Verify::full).size(), result.samples);
    EXPECT_EQ(shard_rejected(file("out.h5")), std::ssize(result.rejected));
  }
  EXPECT_EQ(most, 3) << "all but the archive's end";
  EXPECT_EQ(convert(file("cut.tar"), 2).rejected.size(), 0u) << "nobody asked for what lies behind";
}

TEST_F(WebDatasetTest, AStopLeavesNothing) {
  const auto tar = write_samples("shard.tar", 3);
  int asked = 0;
  EXPECT_EQ(convert(tar, 0, [&] { return ++asked == 3; }).status, EncodeStatus::stopped);
  EXPECT_EQ(listing(), std::vector<std::string>{"shard.tar"});
}

}  // namespace
}  // namespace surgery
