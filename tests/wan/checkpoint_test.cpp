#include "wan/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "../storage/test_folder.h"
#include "wan/sizes_from_tensors.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

/// Of Wan's head dim, so that its sizes follow from its tensors alone.
TransformerConfig tiny() {
  TransformerConfig config;
  config.num_layers = 3;
  config.num_attention_heads = 1;
  config.ffn_dim = 48;
  config.freq_dim = 32;
  config.text_dim = 24;
  return config;
}
VaeConfig tiny_vae() {
  VaeConfig config;
  config.base_dim = 8;
  config.decoder_base_dim = 4;
  config.dim_mult = {1, 2, 4};
  config.num_res_blocks = 1;
  config.temperal_downsample = {true, false};
  config.set_wan_statistics("test");
  return config;
}
TextEncoderConfig tiny_text() {
  TextEncoderConfig config;
  config.vocab_size = 60;
  config.d_model = 24;
  config.d_kv = 8;
  config.d_ff = 40;
  config.num_layers = 2;
  config.num_heads = 4;
  return config;
}

Transformer transformer() {
  return Transformer::random(tiny(), {5, 1});
}

void expect_equal(const TensorMap& read, const TensorMap& expected) {
  ASSERT_EQ(read.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(read.contains(name)) << name;
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(read.at(name), tensor)) << name;
  }
}

/// The tensors under Wan's names, each behind `prefix`.
TensorMap wan_tensors(const Transformer& model, const std::string& prefix = "") {
  TensorMap tensors;
  const TensorNames names = transformer_names(model.config());
  for (const auto& [ours, wan] : names.to_wan()) tensors[prefix + wan] = model.parameters().at(ours);
  return tensors;
}

std::string message_of(const std::function<void()>& statement) {
  try {
    statement();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Checkpoint, OriginalFolderHoldsAllParts) {
  const TestFolder folder;
  const auto model = transformer();
  const auto vae = Vae::random(tiny_vae(), {5, 2});
  auto encoder = TextEncoder::random(tiny_text(), {5, 3});
  const SaveAs wan{.naming = Naming::wan, .stem = ""};
  model.save(folder.path(), at::kFloat, wan);
  // What a file holds is told by its tensors, not by its name; no sizes are told anywhere but in config.json.
  vae.save(folder / "v", at::kFloat, {.naming = Naming::wan, .stem = "a"});
  encoder.save(folder / "t", at::kFloat, {.naming = Naming::wan, .stem = "b"});
  fs::rename(folder / "v/a.safetensors", folder / "Wan2.1_VAE.pth");
  fs::rename(folder / "t/b.safetensors", folder / "vae.safetensors");
  const auto config = nlohmann::json::parse(read_raw(folder / "config.json"));
  EXPECT_EQ(config.at("_class_name"), "WanModel");
  EXPECT_EQ(config.at("num_heads"), 1);
  const auto read = Transformer::load(folder.path());
  EXPECT_EQ(read.config().to_json(), model.config().to_json());
  expect_equal(read.parameters(), model.parameters());
  const auto read_vae = Vae::load(folder.path());
  EXPECT_EQ(read_vae.config().to_json(), vae.config().to_json());
  expect_equal(read_vae.parameters(), vae.parameters());
  auto read_encoder = TextEncoder::load(folder.path());
  EXPECT_EQ(read_encoder.config().to_json(), encoder.config().to_json());
  expect_equal(read_encoder.parameters(), encoder.parameters());
  // Each alone, by its file.
  EXPECT_EQ(Vae::read_config(folder / "Wan2.1_VAE.pth").to_json(), vae.config().to_json());
  EXPECT_EQ(TextEncoder::read_config(folder / "vae.safetensors").to_json(), encoder.config().to_json());
  expect_error(ExitCode::data, "vae.safetensors holds the tensors of a text encoder",
               [&] { Vae::load(folder / "vae.safetensors"); });
}

TEST(Checkpoint, SingleFilesWithAndWithoutPrefix) {
  const TestFolder folder;
  const auto model = transformer();
  for (const std::string prefix : {"", "model.diffusion_model."}) {
    save_tensors(folder / "any name.safetensors", wan_tensors(model, prefix));
    const auto read = Transformer::load(folder / "any name.safetensors");
    EXPECT_EQ(read.config().to_json(), model.config().to_json());
    expect_equal(read.parameters(), model.parameters());
    // Mapped: nothing is copied until a conversion asks for it.
    EXPECT_EQ(find_part(ModelPart::transformer, folder.path())->prefix, prefix);
  }
}

TEST(Checkpoint, ConfigurationTravelsInsideSingleFiles) {
  const TestFolder folder;
  auto config = tiny();
  config.num_attention_heads = 8;
  config.attention_head_dim = 16;  // 128 in all: without the configuration it would be taken for one head
  config.eps = 1e-5;
  const auto model = Transformer::random(config, {5, 1});
  model.save(folder.path(), at::kFloat, {.naming = Naming::wan, .stem = "one", .config_inside = true});
  EXPECT_EQ(folder.count(), 1u);
  EXPECT_EQ(Transformer::load(folder / "one.safetensors").config().to_json(), config.to_json());
}

TEST(Checkpoint, ParametersStayMapped) {
  const TestFolder folder;
  const auto model = transformer();
  model.save(folder.path(), at::kFloat, {.naming = Naming::wan, .stem = ""});
  auto first = Transformer::load(folder.path());
  // Tensors of one mapping lie side by side in the order of the file.
  const auto& weight = first.parameters().at("blocks.0.attn1.to_q.weight");
  const auto store = TensorStore::open_file(folder / "diffusion_pytorch_model.safetensors");
  EXPECT_TRUE(at::equal(weight, store.get("blocks.0.self_attn.q.weight")));
  const auto* begin = static_cast<const char*>(weight.const_data_ptr());
  const auto* norm =
      static_cast<const char*>(first.parameters().at("blocks.0.attn1.norm_q.weight").const_data_ptr());
  const auto* in_store = static_cast<const char*>(store.get("blocks.0.self_attn.q.weight").const_data_ptr());
  const auto* norm_in_store =
      static_cast<const char*>(store.get("blocks.0.self_attn.norm_q.weight").const_data_ptr());
  EXPECT_EQ(norm - begin, norm_in_store - in_store);
}

TEST(Checkpoint, ShardsWithAndWithoutTheirIndex) {
  const TestFolder folder;
  const auto model = transformer();
  for (const Naming naming : {Naming::wan, Naming::diffusers}) {
    const fs::path place = folder / (naming == Naming::wan ? "wan" : "diffusers");
    model.save(place, at::kFloat, {.naming = naming, .stem = "", .shard_bytes = 300'000});
    const fs::path index = place / "diffusion_pytorch_model.safetensors.index.json";
    const auto json = nlohmann::json::parse(read_raw(index));
    std::set<std::string> shards;
    uint64_t bytes = 0;
    for (const auto& [name, shard] : json.at("weight_map").items()) shards.insert(shard.get<std::string>());
    for (const auto& shard : shards)
      for (const auto& [name, tensor] : TensorStore::open_file(place / shard).all()) bytes += tensor.nbytes();
    EXPECT_GT(shards.size(), 2u);
    EXPECT_EQ(json.at("metadata").at("total_size"), bytes);
    expect_equal(Transformer::load(place).parameters(), model.parameters());
    expect_equal(Transformer::load(place).parameters(), Transformer::load(index).parameters());
    fs::rename(index, place / "kept");
    expect_equal(Transformer::load(place).parameters(), model.parameters());
    const std::string last = *shards.rbegin();
    fs::rename(place / last, place / "away");
    expect_error(ExitCode::io, "shards are there", [&] { Transformer::load(place); });
    fs::rename(place / "kept", index);
    expect_error(ExitCode::io, "names shard " + last, [&] { Transformer::load(place); });
    // A shard that does not hold what the index says.
    fs::copy(place / *shards.begin(), place / last);
    expect_error(ExitCode::data, "is not in shard " + last, [&] { Transformer::load(place); });
  }
}

TEST(Checkpoint, IndexAndShardsMustTellTheSame) {
  const TestFolder folder;
  const auto model = transformer();
  model.save(folder.path(), at::kFloat, {.naming = Naming::wan, .stem = "", .shard_bytes = 300'000});
  const fs::path index = folder / "diffusion_pytorch_model.safetensors.index.json";
  auto json = nlohmann::json::parse(read_raw(index));
  const std::string first = json["weight_map"]["blocks.0.ffn.0.weight"],
                    other = json["weight_map"]["head.head.weight"];
  ASSERT_NE(first, other);
  // Tensors that the index does not name, and one that both shards hold.
  TensorMap more = TensorStore::open_file(folder / other).all();
  for (const int64_t block : {0, 1, 2}) more[fmt::format("blocks.{}.extra.weight", block)] = at::ones(3);
  more["blocks.0.ffn.0.weight"] = at::zeros({48, 128});
  more.erase("head.head.bias");
  save_tensors(folder / "replaced", more);
  fs::rename(folder / "replaced", folder / other);
  const auto message = message_of([&] { Transformer::load(folder.path()); });
  for (const std::string& part :
       {std::string("index.json: does not fit its shards"),
        std::string("download the index and its shards again:\n  "),
        "blocks 0-2: extra.weight is in shard " + other + ", but not in the index (3)",
        "blocks.0.ffn.0.weight is in shard " + other + ", but by the index in " + first,
        "head.head.bias is not in shard " + other})
    EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Checkpoint, DamagedIndexesAreRefused) {
  const TestFolder folder;
  const fs::path index = folder / "a.safetensors.index.json";
  const auto refused = [&](const std::string& text, const std::string& message) {
    write_raw(index, text);
    expect_error(ExitCode::data, message, [&] { Transformer::load(index); });
  };
  const std::string whole = R"({"weight_map":{"blocks.0.self_attn.q.weight":"a.safetensors"}})";
  for (size_t length = 0; length < whole.size(); ++length) refused(whole.substr(0, length), "index.json: ");
  refused(R"({"weight_map":{"blocks.0.self_attn.q.weight":"a","blocks.0.self_attn.q.weight":"b"}})",
          "occurs twice");
  for (const char* text : {"[]", "{}", R"({"weight_map":{}})", R"({"weight_map":["a"]})"})
    refused(text, "has no weight_map");
  refused(R"({"weight_map":{"a":)" + std::string(100'000, '[') + "}}", "nested deeper");
}

TEST(Checkpoint, HeadsThatAreTakenForWansAreTold) {
  const TestFolder folder;
  const auto model = transformer();
  const auto said = [](const fs::path& file) {
    testing::internal::CaptureStderr();
    Transformer::load(file);
    return testing::internal::GetCapturedStderr();
  };
  save_tensors(folder / "a.safetensors", wan_tensors(model));
  EXPECT_NE(said(folder / "a.safetensors").find("a.safetensors: comes without a configuration"),
            std::string::npos);
  model.save(folder / "b", at::kFloat, {.naming = Naming::wan, .stem = "b", .config_inside = true});
  EXPECT_EQ(said(folder / "b/b.safetensors"), "");
  model.save(folder / "c", at::kFloat, {.naming = Naming::wan, .stem = ""});
  EXPECT_EQ(said(folder / "c"), "");
}

TEST(Checkpoint, TwoCandidatesAreNotGuessedAt) {
  const TestFolder folder;
  const auto tensors = wan_tensors(transformer());
  save_tensors(folder / "a.safetensors", tensors);
  save_tensors(folder / "b.safetensors", tensors);
  expect_error(ExitCode::data, "two candidates for the transformer, a.safetensors and b.safetensors",
               [&] { Transformer::load(folder.path()); });
  EXPECT_EQ(Transformer::load(folder / "b.safetensors").config().num_layers, 3);
  // In a folder of its own the standard name counts: the hub keeps variants beside it.
  transformer().save(folder / "m/transformer", at::kFloat);
  fs::copy(folder / "m/transformer/diffusion_pytorch_model.safetensors",
           folder / "m/transformer/diffusion_pytorch_model.fp16.safetensors");
  EXPECT_EQ(Transformer::load(folder / "m").config().num_layers, 3);
}

TEST(Checkpoint, ConfigurationsMustNotContradictTheTensors) {
  const TestFolder folder;
  transformer().save(folder.path(), at::kFloat, {.naming = Naming::wan, .stem = ""});
  auto json = nlohmann::json::parse(read_raw(folder / "config.json"));
  json["ffn_dim"] = 40;
  json["num_layers"] = 5;
  write_raw(folder / "config.json", json.dump());
  const auto message = message_of([&] { Transformer::load(folder.path()); });
  for (const char* part : {"with config.json: its tensors do not fit its sizes", "one checkpoint:\n  ",
                           "blocks 0-2: ffn.0.weight is [48, 128] instead of [40, 128] (3)",
                           "blocks 3-4: cross_attn.k.bias, cross_attn.k.weight, cross_attn.norm_k.weight, "
                           "cross_attn.norm_q.weight and 23 more missing (54)"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_LT(std::ranges::count(message, '\n'), 8) << message;
  json["model_type"] = "i2v";
  write_raw(folder / "config.json", json.dump());
  expect_error(ExitCode::data, "model_type", [&] { Transformer::load(folder.path()); });
}

TEST(Checkpoint, FaultsAreGroupedByBlock) {
  TransformerConfig config = tiny();
  config.num_layers = 30;
  auto tensors = wan_tensors(Transformer::random(config, {1, 1}));
  for (int64_t block = 0; block < 30; ++block)
    tensors.erase(fmt::format("blocks.{}.self_attn.q.weight", block));
  for (const int64_t block : {3, 4, 5, 9})
    tensors[fmt::format("blocks.{}.self_attn.k_img.weight", block)] = at::ones(1);
  tensors["img_emb.proj.weight"] = at::ones(1);
  tensors["head.head.bias"] = at::ones(63);
  tensors["blocks.7.norm3.bias"] = at::zeros({128}, at::kLong);
  const TestFolder folder;
  save_tensors(folder / "a.safetensors", tensors);
  const auto message = message_of([&] { Transformer::load(folder / "a.safetensors"); });
  for (const char* line :
       {"\n  blocks 0-29: self_attn.q.weight missing (30)", "\n  head.head.bias is [63] instead of [64]",
        "\n  blocks 3-5, 9: self_attn.k_img.weight unexpected (4)", "\n  img_emb.proj.weight unexpected",
        "\n  blocks.7.norm3.bias is not of a floating-point type"})
    EXPECT_NE(message.find(line), std::string::npos) << message;
}

TEST(Checkpoint, WhatIsNotThereIsTold) {
  const TestFolder folder;
  expect_error(ExitCode::io, "no weights of a transformer are there",
               [&] { Transformer::load(folder.path()); });
  expect_error(ExitCode::io, "no such file or folder", [&] { Vae::load(folder / "absent"); });
  save_tensors(folder / "other.safetensors", {{"weight", at::ones(3)}});
  expect_error(ExitCode::data, "other.safetensors holds no part of Wan2.1",
               [&] { Vae::load(folder.path()); });
  EXPECT_FALSE(find_part(ModelPart::vae, folder.path()).has_value());
  // A file of which the first tensors are missing is still known for what it is, and lacks are told.
  auto tensors = wan_tensors(transformer());
  tensors.erase("patch_embedding.weight");
  save_tensors(folder / "cut.safetensors", tensors);
  expect_error(ExitCode::data, "tensor patch_embedding.weight is missing",
               [&] { Transformer::load(folder / "cut.safetensors"); });
}

TEST(Checkpoint, NothingTakesTheSilentPlaceOfADamagedFile) {
  const TestFolder folder;
  transformer().save(folder.path(), at::kFloat, {.naming = Naming::wan, .stem = ""});
  EXPECT_EQ(Transformer::load(folder.path()).config().num_layers, 3);
  write_raw(folder / "backup.safetensors", "neither a zip archive nor safetensors");
  expect_error(ExitCode::data, "backup.safetensors", [&] { Transformer::load(folder.path()); });
  expect_error(ExitCode::data, "name the file that is meant", [&] { Vae::load(folder.path()); });
  expect_error(ExitCode::data, "name the file that is meant",
               [&] { find_part(ModelPart::vae, folder.path()); });
  EXPECT_EQ(Transformer::load(folder / "diffusion_pytorch_model.safetensors").config().num_layers, 3);
}

TEST(Checkpoint, APartsOwnFolderMayBeNamedItself) {
  const TestFolder folder;
  transformer().save(folder / "m/transformer", at::kFloat);
  fs::copy(folder / "m/transformer/diffusion_pytorch_model.safetensors",
           folder / "m/transformer/diffusion_pytorch_model.fp16.safetensors");
  const auto whole = require_part(ModelPart::transformer, folder / "m"),
             own = require_part(ModelPart::transformer, folder / "m/transformer");
  EXPECT_EQ(content_of(whole), content_of(own));
  EXPECT_EQ(own.weights.size(), 1u);
}

TEST(Checkpoint, NumbersThatFp16CannotHoldAreNotWritten) {
  const TestFolder folder;
  Transformer model = transformer();
  model.parameters().at("blocks.0.ffn.net.2.weight").flatten()[0] = 1e5;
  expect_error(ExitCode::data, "blocks.0.ffn.net.2.weight", [&] { model.save(folder / "m", at::kHalf); });
  model.save(folder / "b", at::kBFloat16);
}

TEST(Checkpoint, ShardsOfAnIndexLieInItsFolder) {
  const TestFolder folder;
  for (const char* shard :
       {"\"../x.safetensors\"", "\"/x.safetensors\"", "\"a\\\\b\"", "\"..\"", "\".\"", "3", "\"\""}) {
    write_raw(folder / "a.safetensors.index.json",
              std::string(R"({"weight_map": {"blocks.0.self_attn.q.weight": )") + shard + "}}");
    expect_error(ExitCode::data, "no shard of this folder", [&] { Transformer::load(folder.path()); });
  }
}

TEST(Checkpoint, Fp8IsRefused) {
  const TestFolder folder;
  const std::string header =
      R"({"blocks.0.self_attn.q.weight":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  write_raw(folder / "fp8.safetensors", bytes + header + "ab");
  expect_error(ExitCode::data, "an 8-bit float", [&] { Transformer::load(folder / "fp8.safetensors"); });
}

TEST(Checkpoint, SizesFollowFromTensors) {
  // The real geometries, without memory: tensors whose elements are all the same one.
  const auto stand_ins = [](const ParameterShapes& shapes, const TensorNames& names) {
    TensorMap tensors;
    for (const auto& [ours, wan] : names.to_wan()) tensors[wan] = at::zeros({1}).expand(shapes.at(ours));
    return tensors;
  };
  TransformerConfig large;
  large.num_layers = 40;
  large.num_attention_heads = 40;
  large.ffn_dim = 13824;
  for (const auto& config : {TransformerConfig(), large})
    EXPECT_EQ(
        transformer_sizes(stand_ins(transformer_parameter_shapes(config), transformer_names(config)), "")
            .to_json(),
        config.to_json());
  VaeConfig vae;
  vae.set_wan_statistics("");
  EXPECT_EQ(vae_sizes(stand_ins(vae_parameter_shapes(vae), vae_names(vae)), "").to_json(), vae.to_json());
  const TextEncoderConfig text;
  const auto tensors = stand_ins(text_encoder_parameter_shapes(text), text_encoder_names(text));
  EXPECT_EQ(text_encoder_sizes(tensors, Naming::wan, "").to_json(), text.to_json());
}

TEST(Checkpoint, HybridModelsKeepTheirConfigurationInWansLayout) {
  const TestFolder folder;
  auto config = tiny();
  config.hybrid = HybridSettings{};
  config.hybrid->rates = {Rate::full(), Rate::every(4), Rate::linear()};
  const auto model = Transformer::random(config, {5, 1});
  model.save(folder / "m", at::kFloat, {.naming = Naming::wan, .stem = ""});
  const auto read = Transformer::load(folder / "m");
  EXPECT_EQ(read.config().to_json(), model.config().to_json());
  expect_equal(read.parameters(), model.parameters());
  fs::remove(folder / "m/config.json");
  expect_error(ExitCode::data, "belongs to a hybrid model", [&] { Transformer::load(folder / "m"); });
}

TEST(Checkpoint, FingerprintsAreTakenOfTheseFiles) {
  const TestFolder folder;
  const auto names = [](const fs::path& where) {
    std::vector<std::string> found;
    for (const fs::path& file : content_of(require_part(ModelPart::transformer, where)))
      found.push_back(file.filename().string());
    return found;
  };
  using Names = std::vector<std::string>;
  const std::string weights = "diffusion_pytorch_model.safetensors";
  // Of a folder that is the part's alone everything counts: runs are known again by it.
  transformer().save(folder / "d/transformer", at::kFloat);
  write_raw(folder / "d/transformer/README.md", "what else is there");
  EXPECT_EQ(names(folder / "d"), (Names{"README.md", "config.json", weights}));
  // In a folder of all parts, what the transformer is made of.
  transformer().save(folder / "w", at::kFloat, {.naming = Naming::wan, .stem = ""});
  write_raw(folder / "w/README.md", "what else is there");
  EXPECT_EQ(names(folder / "w"), (Names{"config.json", weights}));
  EXPECT_EQ(names(folder / "w" / weights), (Names{"config.json", weights}));
}

TEST(Checkpoint, OriginalTokenizerIsFound) {
  const TestFolder folder;
  fs::create_directories(folder / "google/umt5-xxl");
  EXPECT_EQ(find_tokenizer(folder.path()), folder / "google/umt5-xxl");
  fs::create_directories(folder / "tokenizer");
  EXPECT_EQ(find_tokenizer(folder.path()), folder / "tokenizer");
  EXPECT_EQ(find_tokenizer(folder / "tokenizer"), folder / "tokenizer");
}

}  // namespace
}  // namespace surgery
