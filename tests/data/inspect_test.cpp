#include "data/inspect.h"

#include "data/latent_shard.h"
#include "storage/safetensors.h"
#include "storage/tar_builder.h"
#include "storage/tensor_store.h"
#include "test_clips.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"

namespace surgery {
namespace {

using Inspect = DataTest;

TEST_F(Inspect, SafetensorsListTheirTensors) {
  save_tensors(file("a.safetensors"), {{"w", at::zeros({2, 3})}, {"b", at::zeros({4}, at::kBFloat16)}},
               {{"format", "pt"}});
  const auto found = inspect_file(file("a.safetensors"));
  EXPECT_EQ(found["kind"], "safetensors");
  EXPECT_EQ(found["numbers"], 10);
  EXPECT_EQ(found["metadata"]["format"], "pt");
  EXPECT_EQ(found["tensors"][0]["name"], "b");
  EXPECT_EQ(found["tensors"][0]["dtype"], "BF16");
  EXPECT_EQ(found["tensors"][1]["shape"], (std::vector<int64_t>{2, 3}));
  const std::string text = inspection_text(found);
  EXPECT_NE(text.find("tensors: 2\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  w     F32    2x3\n"), std::string::npos) << text;
}

TEST_F(Inspect, TarShardsTellTheirSamplesAndWhetherTheyAreDamaged) {
  const std::string whole =
      build_tar(std::vector<TarPart>{{"a.latent.pt", "x"}, {"a.prompt.txt", "x"}, {"b.latent.pt", "x"}});
  const auto found = inspect_file(write("whole.tar", whole));
  EXPECT_EQ(found["samples"], 2);
  EXPECT_FALSE(found.contains("damaged"));
  const auto cut = inspect_file(write("cut.tar", whole.substr(0, 5 * 512)));
  EXPECT_EQ(cut["samples"], 1);
  EXPECT_NE(cut["damaged"].get<std::string>().find("cut.tar: the member at byte 2048 of 1 bytes leaves"),
            std::string::npos)
      << cut["damaged"];
}

TEST_F(Inspect, LatentShardsTellTheirSamples) {
  ShardHeader header;
  header.space = {"v", "t", {0, 0}, {1, 1}, 8, 6};
  header.frames = 5;
  LatentShardWriter writer(file("a.h5"), header);
  LatentSample sample;
  sample.latents = at::full({2, 2, 2, 2}, 0.5);
  sample.text = at::ones({3, 6});
  sample.prompt = "a cat";
  sample.id = "cat.mp4";
  writer.add(sample);
  writer.commit();
  const auto found = inspect_file(file("a.h5"));
  EXPECT_EQ(found["kind"], "surgery-latents");
  EXPECT_EQ(found["shard"]["samples"], 1);
  EXPECT_EQ(found["shard"]["latent_mean"], 0.5);
  EXPECT_EQ(found["shard"]["first_samples"][0]["prompt"], "a cat");
  EXPECT_NE(inspection_text(found).find("checksums: verified"), std::string::npos);
}

TEST_F(Inspect, TextFilesAreToldApart) {
  write("p.txt", "a cat, sitting\na dog\tA large dog.\n");
  EXPECT_EQ(inspect_file(file("p.txt"))["kind"], "prompts");
  EXPECT_EQ(inspect_file(file("p.txt"))["extended"], 1);
  write("anno.json", R"([{"path": "a.mp4", "cap": "x"}, {"path": "a.jpg", "cap": "x"}])");
  write("data.txt", ".,anno.json\n");
  for (const char* name : {"data.txt", "anno.json"}) {
    const auto found = inspect_file(file(name));
    EXPECT_EQ(found["clips"], 1) << name;
    EXPECT_EQ(found["bad_records"], 1) << name;
  }
  write("selection.json", R"({"rates": [1, 2, "linear"], "cost": 5})");
  EXPECT_EQ(inspect_file(file("selection.json"))["content"]["rates"][2], "linear");
  write("tables.csv", "block,rate\n0,1\n0,2\n");
  EXPECT_EQ(inspect_file(file("tables.csv"))["rows"], 2);
  EXPECT_EQ(inspect_file(folder_)["files"].size(), 5u);
}

TEST_F(Inspect, ModelsTellTheirParts) {
  TransformerConfig config;
  config.num_layers = 2, config.num_attention_heads = 1, config.ffn_dim = 48, config.freq_dim = 32;
  config.text_dim = 24;
  config.hybrid = HybridSettings{};
  config.hybrid->rates = {Rate::full(), Rate::every(4)};
  const auto model = Transformer::random(config, {1, 1});
  TextEncoderConfig text;
  text.vocab_size = 60, text.d_model = 24, text.d_kv = 8, text.d_ff = 40, text.num_layers = 2,
  text.num_heads = 4;
  for (const Naming naming : {Naming::diffusers, Naming::wan}) {
    const bool wan = naming == Naming::wan;
    const auto place = file(wan ? "original" : "folders");
    model.save(wan ? place : place / "transformer", at::kBFloat16,
               {.naming = naming, .stem = "", .shard_bytes = 100'000});
    TextEncoder::random(text, {1, 2})
        .save(wan ? place : place / "text_encoder", at::kFloat,
              {.naming = naming, .stem = wan ? "t5" : "", .config_inside = wan});
    const auto found = inspect_file(place);
    EXPECT_EQ(found["kind"], "model");
    ASSERT_EQ(found["parts"].size(), 2u) << found;
    const auto& part = found["parts"][0];
    EXPECT_EQ(part["part"], "transformer");
    EXPECT_EQ(part["layout"], wan ? "wan" : "diffusers");
    EXPECT_GT(part["files"], 1);
    EXPECT_EQ(part["tensors"], model.parameters().size());
    int64_t numbers = 0;
    for (const auto& [name, tensor] : model.parameters()) numbers += tensor.numel();
    EXPECT_EQ(part["parameters"], numbers);
    EXPECT_EQ(part["dtype"].size(), 2u) << "fp32 tables beside bf16 matrices";
    const std::string sizes = part["sizes"];
    EXPECT_NE(sizes.find("2 blocks of 1 heads of 128"), std::string::npos) << sizes;
    EXPECT_NE(sizes.find("1 at 4"), std::string::npos) << sizes;
    EXPECT_EQ(found["parts"][1]["part"], "text_encoder");
    EXPECT_EQ(found["parts"][1]["dtype"], std::vector<std::string>{"F32"});
    EXPECT_NE(inspection_text(found).find("transformer"), std::string::npos);
  }
  // A configuration that contradicts the tensors is an error here too; other files make no model.
  std::filesystem::rename(file("folders/text_encoder/config.json"), file("config.json"));
  expect_failure([&] { inspect_file(file("folders")); }, ExitCode::io, {"text_encoder/config.json"});
  EXPECT_EQ(inspect_file(folder_)["kind"], "folder");
}

TEST_F(Inspect, VideosAreProbed) {
  SKIP_WITHOUT_VIDEO();
  write_mp4(file("a.mp4"), numbered_frames(5, 64, 96));
  const auto found = inspect_file(file("a.mp4"));
  EXPECT_EQ(found["kind"], "video");
  EXPECT_EQ(found["frames"], 5);
  EXPECT_EQ(found["width"], 96);
}

TEST_F(Inspect, WhatIsDamagedOrUnknownIsAnError) {
  expect_failure([&] { inspect_file(file("none")); }, ExitCode::io, {"none", "no such file"});
  write("empty.txt", "");
  expect_failure([&] { inspect_file(file("empty.txt")); }, ExitCode::data, {"is empty"});
  write("a.bin", "what is this");
  expect_failure([&] { inspect_file(file("a.bin")); }, ExitCode::data, {"a.bin", "no kind of file"});
  write("a.h5", "not HDF5");
  expect_failure([&] { inspect_file(file("a.h5")); }, ExitCode::data, {"a.h5"});
  write("a.safetensors", "short");
  expect_failure([&] { inspect_file(file("a.safetensors")); }, ExitCode::data, {"a.safetensors"});
  write("a.json", "{\"a\": ");
  expect_failure([&] { inspect_file(file("a.json")); }, ExitCode::data, {"a.json"});
}

}  // namespace
}  // namespace surgery
