#include "recipe/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"
#include "recipe/component_cost.h"
#include "recipe/vae_memory.h"

namespace surgery {
namespace {

ModelSizes wan(int64_t heads = 12, int64_t layers = 30, int64_t ffn = 8960) {
  ModelSizes sizes;
  sizes.transformer.num_attention_heads = heads;
  sizes.transformer.num_layers = layers;
  sizes.transformer.ffn_dim = ffn;
  return sizes;
}

/// One rank at 1 FLOP a second: seconds are FLOPs.
PlanMachine unit_machine(int64_t ranks = 1) {
  PlanMachine machine;
  machine.ranks = ranks;
  machine.flops_per_second = 1;
  return machine;
}

Config paper() {
  Config config;
  config.trajectories.frames = config.cost.frames = config.data.frames = config.generate.frames = 81;
  config.trajectories.height = 320, config.trajectories.width = 480;
  for (auto* size : {&config.cost.height, &config.data.height, &config.generate.height}) *size = 480;
  for (auto* size : {&config.cost.width, &config.data.width, &config.generate.width}) *size = 832;
  config.select.budget = "15xR4";
  config.generate.prompts = "none";
  return config;
}

const PlanStage& stage_of(const Plan& plan, const std::string& name) {
  for (const PlanStage& stage : plan.stages)
    if (stage.name == name) return stage;
  throw std::runtime_error(name);
}

TEST(ComponentCost, ParametersAreThoseOfThePublishedModels) {
  EXPECT_EQ(parameter_count(wan().transformer), 1'418'996'800);
  EXPECT_EQ(parameter_count(wan(40, 40, 13824).transformer), 14'288'491'584);
  EXPECT_EQ(parameter_count(VaeConfig{}), 126'892'531);
  EXPECT_EQ(parameter_count(TextEncoderConfig{}), 5'680'910'336);
}

TEST(ComponentCost, VaeGrowsWithTheClipAndHasNoTimeInTheFirstFrame) {
  const VaeConfig vae;
  const double one = vae_encode_flops(vae, 1, 64, 64), five = vae_encode_flops(vae, 5, 64, 64);
  EXPECT_GT(one, 0);
  EXPECT_GT(five, 2 * one);
  EXPECT_LT(five, 5 * one);  // four frames share what follows the strides in time
  // Without the middle's attention, cost is proportional to pixels.
  const double small = vae_decode_flops(vae, 5, 64, 64), wide = vae_decode_flops(vae, 5, 64, 128);
  EXPECT_NEAR(wide / small, 2, 0.01);
  EXPECT_GT(small, five);  // the decoder has a third block a level
}

TEST(ComponentCost, TheFirstConvolutionOfAFlatVaeIsCountedByHand) {
  VaeConfig vae;
  vae.base_dim = 2;
  vae.dim_mult = {1};
  vae.temperal_downsample = {};
  vae.num_res_blocks = 0;
  vae.z_dim = 1;
  // conv_in 3->2, middle (two residual blocks of two convolutions, 1x1 q k v and projection, attention),
  // conv_out 2->2, quantisation 2->2; one frame of 4 x 4.
  const double positions = 16;
  const double macs = 27 * 3 * 2 + 4 * 27 * 2 * 2 + 4 * 2 * 2 + 27 * 2 * 2 + 2 * 2;
  EXPECT_DOUBLE_EQ(vae_encode_flops(vae, 1, 4, 4), 2 * positions * macs + 4 * positions * positions * 2);
}

/// Measured, in MiB: the largest resident size of a process at 17 x 240 x 416, without that of a VAE that is
/// next to nothing, the clip, and the weights of encoder or decoder.
TEST(VaeMemory, IsWhatWasMeasured) {
  constexpr double MiB = 1024.0 * 1024.0;
  const VaeConfig vae;
  EXPECT_NEAR(vae_encode_memory(vae, 17, 240, 416, {}, 4) / MiB, 1210, 121);
  EXPECT_NEAR(vae_decode_memory(vae, 17, 240, 416, {}, 4) / MiB, 1712, 171);
}

TEST(VaeMemory, FollowsTheTileAndNotTheLength) {
  const VaeConfig vae;
  for (const auto memory : {vae_encode_memory, vae_decode_memory}) {
    EXPECT_EQ(memory(vae, 81, 480, 832, {}, 4), memory(vae, 17, 480, 832, {}, 4));
    EXPECT_LT(memory(vae, 1, 480, 832, {}, 4), memory(vae, 17, 480, 832, {}, 4));
    EXPECT_EQ(memory(vae, 17, 480, 832, {256, 192}, 4), memory(vae, 17, 256, 256, {}, 4));
    EXPECT_EQ(memory(vae, 17, 480, 832, {1024, 768}, 4), memory(vae, 17, 480, 832, {}, 4));
    EXPECT_EQ(memory(vae, 17, 480, 832, {}, 2), memory(vae, 17, 480, 832, {}, 4) / 2);
  }
}

TEST(Plan, TilesAndPrecisionOfTheVaeAreCounted) {
  Config config = paper();
  const auto encode = [&] {
    return stage_of(make_plan(config, wan(), unit_machine()), "encode").memory_bytes();
  };
  const double whole = encode();
  config.model.vae_tile = 256;
  const double tiles = encode();
  EXPECT_LT(tiles, whole - 2e9);
  config.model.vae_precision = "bf16";
  EXPECT_LT(encode(), tiles);
}

TEST(Plan, TrajectoriesCostForwardsAndLatents) {
  Config config = paper();
  config.trajectories.count = 3, config.trajectories.held_out = 1, config.trajectories.steps = 50;
  const ModelSizes model = wan();
  const Plan plan = make_plan(config, model, unit_machine());
  const PlanStage& stage = stage_of(plan, "trajectories");
  const CostGeometry g = cost_geometry(model.transformer, 512, 81, 320, 480);
  EXPECT_EQ(g.tokens, 12600);
  EXPECT_NEAR(stage.flops, 4 * 100 * transformer_flops(g), 0.02 * stage.flops);  // text is small
  // 51 latents of 806,400 elements in bf16.
  EXPECT_DOUBLE_EQ(stage.disk.front().bytes, 4 * 51 * 1'612'800.0);
  EXPECT_DOUBLE_EQ(stage.seconds, stage.flops);
  config.trajectories.guidance = 1;  // no unconditional branch
  EXPECT_NEAR(stage_of(make_plan(config, model, unit_machine()), "trajectories").flops / stage.flops, 0.5,
              0.01);
}

TEST(Plan, PiecesAreNotDividedAmongRanks) {
  Config config = paper();
  config.trajectories.count = 4, config.trajectories.held_out = 1;
  const double alone = stage_of(make_plan(config, wan(), unit_machine()), "trajectories").seconds;
  const PlanStage two = stage_of(make_plan(config, wan(), unit_machine(2)), "trajectories");
  EXPECT_DOUBLE_EQ(two.seconds, alone * 3 / 5);  // three rounds for five prompts
  EXPECT_DOUBLE_EQ(two.device_hours, 2 * two.seconds / 3600);
}

TEST(Plan, SmallerUnitsOfDistillationReplayMore) {
  Config config = paper();
  config.distill.blocks_per_unit = 30;
  const PlanStage whole = stage_of(make_plan(config, wan(), unit_machine(8)), "distill");
  config.distill.blocks_per_unit = 1;
  const PlanStage single = stage_of(make_plan(config, wan(), unit_machine(8)), "distill");
  EXPECT_EQ(whole.parallel, 1);
  EXPECT_EQ(single.parallel, 30);
  EXPECT_GT(single.flops, whole.flops);      // 15.5 forwards a replay instead of one
  EXPECT_LT(single.seconds, whole.seconds);  // but eight ranks work
  EXPECT_LT(single.memory_bytes(), whole.memory_bytes());
}

TEST(Plan, LiveSourceTradesDiskForForwards) {
  Config config = paper();
  const Plan cached = make_plan(config, wan(), unit_machine());
  config.trajectories.source = "live";
  const Plan live = make_plan(config, wan(), unit_machine());
  EXPECT_EQ(stage_of(live, "trajectories").disk_bytes(), 0);
  EXPECT_GT(stage_of(live, "distill").flops, stage_of(cached, "distill").flops);
}

TEST(Plan, FinetuningOfTheStudentCostsLessThanOfTheTeacher) {
  Config config = paper();
  const PlanStage student = stage_of(make_plan(config, wan(), unit_machine()), "finetune");
  config.select.mode = "softmax";
  const PlanStage control = stage_of(make_plan(config, wan(), unit_machine()), "finetune");
  EXPECT_NEAR(student.flops / control.flops, 0.747, 0.001);  // 15xR4 at 480x832
  EXPECT_GT(student.memory_bytes(), 16.0 * 1'418'996'800);   // masters, moments, gradients, weights
  config.finetune.iterations = 0;
  EXPECT_EQ(stage_of(make_plan(config, wan(), unit_machine()), "finetune").flops, 0);
}

TEST(Plan, FinishedLatentsCostNoEncoding) {
  Config config = paper();
  config.data.count = 100;
  const double videos = stage_of(make_plan(config, wan(), unit_machine()), "encode").flops;
  config.data.videos = "shard_000000.tar";
  const PlanStage tars = stage_of(make_plan(config, wan(), unit_machine()), "encode");
  EXPECT_GT(videos, 0);
  EXPECT_EQ(tars.flops, 0);
  EXPECT_EQ(tars.units, 100);
  ASSERT_EQ(tars.memory.size(), 2u) << "and the program: neither VAE nor text encoder";
  EXPECT_DOUBLE_EQ(tars.memory[0].bytes, 2 * 256 * (4'193'280.0 + 4'194'304.0));
}

TEST(Plan, WhatCannotFitIsRefusedByItsTerm) {
  PlanMachine machine = unit_machine();
  machine.memory_bytes = 1e9;
  machine.disk_bytes = 1e9;
  Config config = paper();
  config.model.stream = "no";
  const Plan plan = make_plan(config, wan(), machine);
  ASSERT_FALSE(plan.faults.empty());
  EXPECT_NE(plan.faults.front().find("trajectories needs"), std::string::npos) << plan.faults.front();
  EXPECT_NE(plan.faults.front().find(
                "the largest term: text encoder, fp32 (released before the rest is loaded), 21.2 GiB"),
            std::string::npos)
      << plan.faults.front();
  EXPECT_NE(plan.faults.back().find("on disk"), std::string::npos) << plan.faults.back();
  EXPECT_NE(plan.faults.back().find("checkpoints"), std::string::npos) << plan.faults.back();
  EXPECT_TRUE(make_plan(paper(), wan(), unit_machine()).faults.empty());  // limits not known
}

/// umT5-xxl's memory line, before the teacher is loaded.
TEST(Plan, TheTextEncoderTakesHalfInBf16) {
  Config config = paper();
  config.model.stream = "no";
  const auto line = [&] {
    return stage_of(make_plan(config, wan(), unit_machine()), "trajectories").memory.front();
  };
  config.model.text_precision = "fp32";
  const PlanTerm wide = line();
  EXPECT_EQ(wide.name, "text encoder, fp32 (released before the rest is loaded)");
  EXPECT_DOUBLE_EQ(wide.bytes, 4 * 5'680'910'336.0);
  config.model.text_precision = "bf16";
  const PlanTerm half = line();
  EXPECT_EQ(half.name, "text encoder, bf16 (released before the rest is loaded)");
  EXPECT_DOUBLE_EQ(half.bytes, wide.bytes / 2);
  PlanMachine machine = unit_machine();
  machine.memory_bytes = 1e9;
  const std::string fault = make_plan(config, wan(), machine).faults.front();
  EXPECT_NE(fault.find("the largest term: " + half.name + ", 10.6 GiB"), std::string::npos) << fault;
}

/// 14B takes 53 GiB in fp32; two blocks, and what is outside them, fit into 24 GiB.
TEST(Plan, BlocksAreStreamedWhereTheWeightsWouldTakeTheMemory) {
  constexpr double GiB = 1024.0 * 1024 * 1024;
  PlanMachine machine = unit_machine();
  const auto noted = [](const Plan& plan) {
    return std::ranges::any_of(plan.notes, [](const std::string& note) {
      return note.find("streamed from their files") != std::string::npos;
    });
  };
  Config config = paper();
  config.trajectories.frames = 5;
  config.distill.blocks_per_unit = 1;
  const ModelSizes large = wan(40, 40, 13824);
  const Plan unknown = make_plan(config, large, machine);
  EXPECT_FALSE(noted(unknown));
  EXPECT_GT(stage_of(unknown, "trajectories").memory_bytes(), 53 * GiB);
  machine.memory_bytes = 24 * GiB;
  const Plan streamed = make_plan(config, large, machine);
  EXPECT_TRUE(noted(streamed));
  EXPECT_LT(stage_of(streamed, "trajectories").memory_bytes(), 10 * GiB);
  EXPECT_LT(stage_of(streamed, "distill").memory_bytes(), 24 * GiB);
  EXPECT_GT(stage_of(streamed, "generate").memory_bytes(), 53 * GiB) << "finetuned students are whole";
  config.finetune.iterations = 0;
  config.finetune.checkpoints = "";
  EXPECT_LT(stage_of(make_plan(config, large, machine), "model").memory_bytes(), 20 * GiB);
  config.model.stream = "no";
  EXPECT_FALSE(noted(make_plan(config, large, machine)));
  config.model.stream = "yes";
  EXPECT_TRUE(noted(make_plan(config, wan(), unit_machine())));
}

std::string fault_of(const Config& config, double gib, const std::string& stage) {
  PlanMachine machine = unit_machine();
  machine.memory_bytes = gib * 1024 * 1024 * 1024;
  for (const std::string& fault : make_plan(config, wan(), machine).faults)
    if (fault.starts_with(stage)) return fault;
  return "";
}

/// The options that a fault names do make the stage fit, and the next longer clip does not.
TEST(Plan, WhatIsNamedAsRemedyFits) {
  Config config = paper();
  config.finetune.precision = "bf16-diffusers";
  const std::string fault = fault_of(config, 80, "finetune");
  EXPECT_NE(fault.find("it fits with --finetune.recompute=1 (1.3 times its FLOPs)"), std::string::npos)
      << fault;
  config.finetune.recompute = 1;
  EXPECT_EQ(fault_of(config, 80, "finetune"), "");
  config.finetune.save_behind = false;
  const std::string smaller = fault_of(config, 33, "finetune");
  const auto at = smaller.find("it fits with --data.frames=");
  ASSERT_NE(at, std::string::npos) << smaller;
  Config shorter = config;
  shorter.data.frames = std::stol(smaller.substr(at + 27));
  EXPECT_EQ(fault_of(shorter, 33, "finetune"), "");
  shorter.data.frames += 4;
  EXPECT_NE(fault_of(shorter, 33, "finetune"), "");

  Config wasteful = paper();
  wasteful.model.stream = "no";
  wasteful.finetune.micro_batch = 4;
  wasteful.finetune.precision = "fp32";
  const auto expect = [&](const std::string& stage, double gib, const std::string& words) {
    EXPECT_NE(fault_of(wasteful, gib, stage).find(words), std::string::npos)
        << fault_of(wasteful, gib, stage);
  };
  expect("finetune", 450, "it fits with --finetune.micro_batch=2");
  expect("finetune", 30,
         "it fits with --finetune.save_behind=no --finetune.micro_batch=1 --finetune.recompute=1 "
         "--data.frames=");
  expect("finetune", 20,
         "it does not fit even with --finetune.save_behind=no --finetune.micro_batch=1 "
         "--finetune.recompute=1 --data.frames=1");
  expect("distill", 30, "it fits with --distill.blocks_per_unit=");
  expect("distill", 30, "times its FLOPs)");
  expect("encode", 24, "it fits with --model.stream=yes");
  expect("encode", 3, "it fits with --model.stream=yes --model.vae_tile=256 --data.height=");
  expect("model", 5, "it needs more memory a rank");
  expect("trajectories", 20, "it fits with --model.stream=yes");
  expect("generate", 10.5, "it fits with --model.stream=yes");
}

/// What a rank of so many keeps from step to step of finetuning: weights, gradients, masters, moments,
/// averages.
double state_bytes(Config config, const std::string& sharding, int64_t ranks) {
  config.data.sharding = sharding;
  const PlanStage stage = stage_of(make_plan(config, wan(), unit_machine(ranks)), "finetune");
  double sum = stage.memory_bytes();
  for (const PlanTerm& term : stage.memory)
    if (term.name.find("activations") != std::string::npos ||
        term.name.find("program") != std::string::npos ||
        term.name.find("whole at once") != std::string::npos)
      sum -= term.bytes;
  return sum;
}

/// Every rank's share by arithmetic: P parameters, R ranks, nothing else.
TEST(Plan, ShardingSharesOutWhatItSays) {
  Config config = paper();
  config.select.mode = "softmax";  // no feature maps
  config.finetune.save_behind = false;
  constexpr double P = 1'418'996'800;
  const auto bytes = [&](const std::string& sharding) { return state_bytes(config, sharding, 4); };
  EXPECT_NEAR(bytes("none"), 16 * P, 1);
  EXPECT_NEAR(bytes("optimizer"), (8 + 8 / 4.0) * P, 1);
  EXPECT_NEAR(bytes("parameters"), 16 / 4.0 * P, 1);
}

/// By arithmetic: 16 bytes a parameter of the 14B are 213 GiB, 27 a rank of 8; the rest is activations.
TEST(Plan, FourteenBillionAreFinetunedOnEightGpusOf80GB) {
  Config config = paper();
  config.model.device = "cuda";
  config.finetune.precision = "bf16-diffusers";
  const ModelSizes large = wan(40, 40, 13824);
  PlanMachine machine = unit_machine(8);
  machine.memory_bytes = 80e9;
  const auto finetuning = [&] {
    for (const std::string& fault : make_plan(config, large, machine).faults)
      if (fault.starts_with("finetune")) return fault;
    return std::string();
  };
  EXPECT_NE(finetuning().find("it fits with --data.sharding=parameters --finetune.recompute=1"),
            std::string::npos)
      << finetuning();
  config.data.sharding = "parameters";
  config.finetune.recompute = 1;
  EXPECT_EQ(finetuning(), "");
  EXPECT_GT(stage_of(make_plan(config, large, machine), "finetune").memory_bytes(), 18.0 / 8 * 14.29e9);
  machine.ranks = 4;
  EXPECT_NE(finetuning().find("it fits with --finetune.optimizer_device=host"), std::string::npos)
      << "on half as many the optimizer moves out: " << finetuning();
  config.finetune.optimizer_device = "host";
  EXPECT_EQ(finetuning(), "");
  // 12 bytes a parameter, shared by the ranks, and the copy that is written.
  const double moved = stage_of(make_plan(config, large, machine), "finetune").host_memory_bytes();
  EXPECT_NEAR(moved, 2 * 12.0 / 4 * 14.29e9, 0.02 * moved);
  machine.host_bytes = 64e9;
  EXPECT_NE(finetuning().find("of the host's memory a rank, 59.6 GiB are there"), std::string::npos);
  EXPECT_NE(finetuning().find("it fits with --finetune.save_behind=no"), std::string::npos) << finetuning();
  machine.host_bytes = 16e9;
  EXPECT_NE(finetuning().find("does not fit even with"), std::string::npos) << finetuning();
}

/// What is not trained needs neither gradient nor moments, but stays whole; an average takes as much as a
/// master.
TEST(Plan, FrozenPartsAndAveragesAreCounted) {
  Config config = paper();
  config.select.mode = "softmax";
  config.finetune.save_behind = false;
  const auto bytes = [&](const std::string& sharding) { return state_bytes(config, sharding, 4); };
  constexpr double all = 1'418'996'800, dim = 1536;
  config.finetune.train = "blocks.*.attn1.to_q.*,blocks.*.attn1.to_k.*";
  const double trained = 30 * 2 * (dim * dim + dim);
  EXPECT_NEAR(bytes("none"), 4 * all + 12 * trained, 1);
  EXPECT_NEAR(bytes("parameters"), 4 * (all - trained) + 16 / 4.0 * trained, 1);
  config.finetune.teacher_weight = 1;
  EXPECT_NEAR(bytes("none"), 4 * all + 16 * trained, 1) << "the teacher's serve both";
  config.finetune.teacher_weight = 0;
  config.finetune.ema = 0.999;
  EXPECT_NEAR(bytes("none"), 4 * all + 16 * trained, 1);
  EXPECT_NEAR(bytes("optimizer"), 4 * all + (4 + 12 / 4.0) * trained, 1);
}

/// Memory is that of the largest bucket, FLOPs those of the mean; the remedy is to do without the largest.
TEST(Plan, BucketsAreCountedByTheLargest) {
  Config single = paper();
  const Plan whole = make_plan(single, wan(), unit_machine());
  Config config = paper();
  config.data.buckets = "41x480x832,81x480x832";
  const Plan plan = make_plan(config, wan(), unit_machine());
  for (const std::string stage : {"encode", "finetune"})
    EXPECT_DOUBLE_EQ(stage_of(plan, stage).memory_bytes(), stage_of(whole, stage).memory_bytes()) << stage;
  EXPECT_EQ(stage_of(plan, "finetune").clip, (std::vector<int64_t>{81, 480, 832}));
  single.data.frames = 41;
  const Plan half = make_plan(single, wan(), unit_machine());
  EXPECT_NEAR(stage_of(plan, "finetune").flops,
              (stage_of(whole, "finetune").flops + stage_of(half, "finetune").flops) / 2,
              1e-9 * stage_of(plan, "finetune").flops);
  EXPECT_NEAR(stage_of(plan, "encode").disk_bytes(),
              (stage_of(whole, "encode").disk_bytes() + stage_of(half, "encode").disk_bytes()) / 2, 1);
  EXPECT_TRUE(std::ranges::any_of(
      plan.notes, [](const std::string& note) { return note.find("data.buckets") != std::string::npos; }));
  config.finetune.precision = "bf16-diffusers";
  config.finetune.recompute = 1;
  config.finetune.save_behind = false;
  config.data.buckets = "33x480x832,81x480x832";
  EXPECT_NE(fault_of(config, 33, "finetune").find("it fits with --data.buckets=33x480x832"),
            std::string::npos)
      << fault_of(config, 33, "finetune");
  config.data.shards = "elsewhere";
  EXPECT_EQ(stage_of(make_plan(config, wan(), unit_machine()), "encode").units, 0);
  config.data.shards = "elsewhere,own";
  EXPECT_GT(stage_of(make_plan(config, wan(), unit_machine()), "encode").units, 0);
}

TEST(Plan, TotalsAndJsonAgree) {
  const Plan plan = make_plan(paper(), wan(), unit_machine());
  const nlohmann::ordered_json json = plan_json(plan);
  double flops = 0, disk = 0;
  for (const auto& stage : json["stages"]) {
    flops += stage["flops"].get<double>();
    disk += stage["disk_bytes"].get<double>();
    EXPECT_NE(plan_text(plan).find(stage["name"].get<std::string>()), std::string::npos);
  }
  EXPECT_DOUBLE_EQ(flops, json["flops"]);
  EXPECT_DOUBLE_EQ(disk, json["disk_bytes"]);
}

TEST(Plan, ModelsAndSizesThatDoNotFitAreRefused) {
  try {
    read_model_sizes(ModelSection{});
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
  ModelSection absent;
  absent.config = "/absent/model";
  try {
    read_model_sizes(absent);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::io);
  }
  Config config = paper();
  config.select.budget = "31xR4";
  EXPECT_THROW(make_plan(config, wan(), unit_machine()), Error);
}

}  // namespace
}  // namespace surgery
