#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace surgery {

// One plain struct per configuration section; `[section] key` in INI files, `--section.key=value` on the
// command line. recipe/config_table.cpp lists every option once: parser, --help, printout and JSON come from
// that table.

struct ModelSection {
  std::string path;  ///< the teacher: a folder of any layout, or a file of the transformer
  std::string transformer, vae, text_encoder, tokenizer;  ///< a part from elsewhere; empty: inside `path`
  std::string config;           ///< for `plan` without weights: folder holding transformer/config.json
  std::string device = "auto";  ///< auto, cpu, cuda
  /// auto, or of precision_names(): of the transformer, where it is not trained
  std::string precision = "auto";
  std::string text_precision = "auto";        ///< auto, fp32, bf16: of the text encoder
  std::string vae_precision = "fp32";         ///< fp32, bf16
  std::string stream = "auto";                ///< auto, yes, no: blocks from their files, one at a time
  int64_t vae_tile = 0, vae_tile_stride = 0;  ///< pixels; 0: no tiles; stride 0: three quarters of a tile
};

struct RunSection {
  std::string directory = "runs/surgery";
  std::string base;  ///< another run, whose finished artifacts are taken where the settings agree
  uint64_t seed = 0;
  int64_t threads = 0;          ///< per rank; 0 = cores / local ranks
  std::string resume = "auto";  ///< auto, must, never, or the folder of a finetuning's checkpoint
  double memory_limit_gib = 0;  ///< per rank; 0 = what the machine has
  /// Without progress of a rank, after which the job is aborted; 0 = never; "30,finetune=5" by stage.
  std::string stall_minutes = "0";
};

struct TrajectorySection {
  std::string prompts = "shapes:distill";  ///< prompt list file, or shapes:SPLIT
  int64_t count = 16;                      ///< training prompts used
  int64_t held_out = 4;                    ///< further prompts for the held-out error
  int64_t frames = 17, height = 128, width = 160;
  int64_t steps = 50;
  double guidance = 5, shift = 3;
  std::string sampler = "euler-ancestral", schedule = "diffusers-unipc";
  std::string negative_prompt;
  std::string source = "latent";  ///< latent, live
};

struct DistillSection {
  std::string rates = "2,4,8,linear";
  int64_t phi_degree = 2, phi_layers = 2;
  std::string phi_output_activation = "softplus";
  double phi_last_bias = -3;
  std::string stabilizer = "max";  ///< max, lse
  std::string loss = "value";      ///< value, attention
  bool linear_branch = true;       ///< false: T_S alone (ablation)
  double learning_rate = 1e-3;
  std::string schedule = "cosine";  ///< constant, cosine (to 5 % over all updates)
  double weight_decay = 0.01;
  int64_t group_timesteps = 5;    ///< cached timesteps per update group (0 = all of a trajectory)
  int64_t updates_per_group = 4;  ///< U
  int64_t epochs = 1;             ///< passes over the training prompts
  int64_t held_out_timesteps = 5;
  int64_t blocks_per_unit = 0;  ///< blocks that one rank distils at once; 0 = blocks / ranks
  int64_t commit_every = 4;     ///< trajectories between commits of a block's state
  int64_t attention_rows = 64;  ///< sampled rows of the attention loss
};

struct CostSection {
  int64_t frames = 17, height = 128, width = 160;  ///< cost.geometry
  std::string measure = "flops";                   ///< flops, milliseconds (also measured)
};

struct SelectSection {
  std::string budget = "0.7";          ///< FLOPs ("1.2e12"), fraction of all-softmax ("0.7"), or "15xR4"
  std::string pins;                    ///< "0=1,29=1"
  std::string mode = "heterogeneous";  ///< heterogeneous, homogeneous, softmax (control)
  std::string homogeneous_rate = "4";
  int64_t homogeneous_blocks = 0;  ///< 0 = the fewest that meet the budget
  std::string column = "flops";    ///< cost column
};

struct DataSection {
  std::string videos = "shapes:train";  ///< annotation listing, tar shards of latents, or shapes:SPLIT
  int64_t count = 256;                  ///< clips taken; 0 = all
  std::string shards;                   ///< sets of latent shards, FOLDER[=WEIGHT],...; empty = own
  int64_t frames = 17, height = 128, width = 160;
  std::string buckets;  ///< shapes of the clips, FRAMESxHEIGHTxWIDTH,...; empty = the one shape above
  double fps = 16;
  int64_t least_height = 0, least_width = 0;  ///< of the source; 0 = any, here and below
  double least_seconds = 0, most_seconds = 0, least_aesthetic = 0, most_aspect = 0;
  int64_t damaged = 16;           ///< samples that finetuning passes over on a rank
  std::string sharding = "none";  ///< of what data-parallel training holds: of sharding_names()
};

struct FinetuneSection {
  int64_t iterations = 1000;
  int64_t global_batch = 16, micro_batch = 1;
  double learning_rate = 1e-5, beta1 = 0.9, beta2 = 0.999, weight_decay = 0.01, gradient_clip = 1;
  double shift = 3;
  double text_dropout = 0.1;
  double teacher_weight = 0;  ///< weight of the velocity-matching term
  std::string checkpoints = "400,600,800,1000";
  int64_t save_every = 100;
  bool save_behind = true;                 ///< checkpoints are copied and written beside the next steps
  std::string optimizer_device = "model";  ///< of masters, moments and average: model, host
  int64_t recompute = 0;                   ///< every k-th block is computed again in backward; 0 = none
  std::string train = "all";               ///< see recipe/trained_subset.h
  std::string schedule = "constant";       ///< of rate_schedule_names()
  int64_t warmup = 0;
  double final_rate = 0;                 ///< share of learning_rate
  double ema = 0;                        ///< decay of the averaged weights; 0 = none
  std::string noise_levels = "uniform";  ///< of level_density_names()
  double logit_mean = 0, logit_std = 1, mode_scale = 1.29;
  std::string loss_weighting = "none";  ///< of LossWeighting::names()
  int64_t validation_clips = 0, validate_every = 100;
  std::string max_gradient = "through";
  std::string precision = "fp32";  ///< of precision_names(): of the student; masters are fp32
};

struct GenerateSection {
  std::string prompts = "shapes:evaluation";
  int64_t count = 16;
  int64_t samples = 1;  ///< videos per prompt
  int64_t steps = 25;
  double guidance = 5, shift = 3;
  std::string sampler = "unipc", schedule = "diffusers-unipc";
  std::string noise;  ///< safetensors file of the clips' initial noise; empty = drawn by run.seed
  std::string negative_prompt;
  int64_t frames = 17, height = 128, width = 160;
};

struct EvaluateSection {
  bool shapes_score = true;
};

struct Config {
  ModelSection model;
  RunSection run;
  TrajectorySection trajectories;
  DistillSection distill;
  CostSection cost;
  SelectSection select;
  DataSection data;
  FinetuneSection finetune;
  GenerateSection generate;
  EvaluateSection evaluate;
};

}  // namespace surgery
