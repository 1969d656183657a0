#include "recipe/config_table.h"

#include "parallel/bucket_layout.h"
#include "recipe/config_checks.h"
#include "recipe/learning_rate.h"
#include "wan/flow.h"
#include "wan/precision.h"
#include "wan/sampler.h"

namespace surgery {
namespace {

using Words = std::vector<std::string>;
constexpr double unlimited = std::numeric_limits<double>::infinity();

/// Builds the table section by section; the two member pointers make the accessor.
template <class Section>
class SectionTable {
 public:
  SectionTable(std::vector<ConfigOption>& table, std::string name, Section Config::*section)
      : table_(table), name_(std::move(name)), section_(section) {}

  template <class T>
  SectionTable& add(const char* name, T Section::*field, const char* unit, const char* help) {
    ConfigOption option;
    option.section = name_;
    option.name = name;
    option.access = Accessor<T>([section = section_, field](Config& c) -> T& { return c.*section.*field; });
    option.unit = unit;
    option.help = help;
    table_.push_back(std::move(option));
    return *this;
  }
  SectionTable& range(double minimum, double maximum = unlimited) {
    table_.back().minimum = minimum;
    table_.back().maximum = maximum;
    return *this;
  }
  SectionTable& one_of(Words words) {
    table_.back().allowed = std::move(words);
    return *this;
  }
  SectionTable& check(std::string (*function)(const std::string&)) {
    table_.back().check = function;
    return *this;
  }
  /// The clip size that four sections have alike.
  SectionTable& clip(const char* what) {
    add("frames", &Section::frames, "frames", fmt::format("length of {}, 4k+1", what).c_str());
    range(1, 4097).check(check_frames);
    add("height", &Section::height, "pixels", fmt::format("height of {}, a multiple of 16", what).c_str());
    range(16, 16384).check(check_side);
    add("width", &Section::width, "pixels", fmt::format("width of {}, a multiple of 16", what).c_str());
    range(16, 16384).check(check_side);
    return *this;
  }

 private:
  std::vector<ConfigOption>& table_;
  std::string name_;
  Section Config::*section_;
};

Words with_auto(Words words) {
  words.insert(words.begin(), "auto");
  return words;
}

void add_model_and_run(std::vector<ConfigOption>& table) {
  SectionTable<ModelSection>(table, "model", &Config::model)
      .add("path", &ModelSection::path, "",
           "the teacher: a folder in the diffusers or the original layout, or one file of its transformer")
      .add("transformer", &ModelSection::transformer, "",
           "file or folder of the transformer, where it is not in model.path")
      .add("vae", &ModelSection::vae, "", "file or folder of the VAE, where it is not in model.path")
      .add("text_encoder", &ModelSection::text_encoder, "",
           "file or folder of the text encoder, where it is not in model.path")
      .add("tokenizer", &ModelSection::tokenizer, "",
           "folder of the tokenizer, where it is not in model.path")
      .add("config", &ModelSection::config, "",
           "for plan without weights: folder that holds transformer/config.json")
      .add("device", &ModelSection::device, "", "where tensors are computed")
      .one_of({"auto", "cpu", "cuda"})
      .add("precision", &ModelSection::precision, "",
           "of the transformer, where it is not trained: fp32; bf16 rounded as diffusers does, or as the "
           "original program's autocast; auto = fp32 on the CPU, bf16-diffusers on a GPU")
      .one_of(with_auto(precision_names()))
      .add("text_precision", &ModelSection::text_precision, "",
           "of the text encoder; auto = fp32 on the CPU, bf16 on a GPU")
      .one_of({"auto", "fp32", "bf16"})
      .add(
          "stream", &ModelSection::stream, "",
          "blocks of transformer and text encoder read from their files when it is their turn, two in memory "
          "at once; auto = where the weights would take more than half of a rank's memory")
      .one_of({"auto", "yes", "no"})
      .add("vae_precision", &ModelSection::vae_precision, "",
           "what the VAE computes in; bf16 shifts the latents by about 1 %")
      .one_of({"fp32", "bf16"})
      .add(
          "vae_tile", &ModelSection::vae_tile, "pixels",
          "side of the tiles that larger frames go through the VAE in, blended where they overlap; 0 = whole "
          "frames")
      .range(0, 16384)
      .check(check_cells)
      .add("vae_tile_stride", &ModelSection::vae_tile_stride, "pixels",
           "from one tile to the next; 0 = three quarters of vae_tile")
      .range(0, 16384)
      .check(check_cells);
  SectionTable<RunSection>(table, "run", &Config::run)
      .add("directory", &RunSection::directory, "", "folder of the run's artifacts")
      .check(check_not_empty)
      .add("base", &RunSection::base, "",
           "folder of another run, whose finished trajectories, blocks, latent shards and clips are taken "
           "where the settings agree")
      .add("seed", &RunSection::seed, "", "seed of every random stream")
      .add("threads", &RunSection::threads, "threads", "of one rank; 0 = cores / ranks of the host")
      .range(0, 65536)
      .add("resume", &RunSection::resume, "",
           "artifacts that exist: auto = go on from them, must = refuse to start without any, never = refuse "
           "to start with any; "
           "or the folder of another run's checkpoint (OTHER/finetune/step-000400), whose weights, moments "
           "and iteration finetuning starts from while this run has no checkpoint")
      .check(check_resume_word)
      .add("memory_limit_gib", &RunSection::memory_limit_gib, "GiB", "of one rank; 0 = what the machine has")
      .range(0)
      .add("stall_minutes", &RunSection::stall_minutes, "minutes",
           "without progress of a rank, after which the whole job is aborted (70), each rank telling what it "
           "did; "
           "more than the longest unit of work takes; 0 = never; stages may have limits of their own: "
           "30,finetune=5")
      .check(check_stall_limits);
}

void add_distillation(std::vector<ConfigOption>& table) {
  using T = TrajectorySection;
  SectionTable<T>(table, "trajectories", &Config::trajectories)
      .add("prompts", &T::prompts, "", "prompt list, one a line, or shapes:SPLIT")
      .check(check_not_empty)
      .add("count", &T::count, "prompts", "training prompts used")
      .range(1)
      .add("held_out", &T::held_out, "prompts", "further prompts, for the held-out error alone")
      .range(1)
      .clip("the teacher's clips")
      .add("steps", &T::steps, "steps", "of the teacher's sampler")
      .range(1, 1000)
      .add("guidance", &T::guidance, "", "classifier-free guidance of the teacher")
      .range(0)
      .add("shift", &T::shift, "", "time shift of the noise schedule")
      .range(0.001, 1000)
      .add("sampler", &T::sampler, "", "of the teacher's runs")
      .one_of(sampler_names())
      .add("schedule", &T::schedule, "", "noise levels and timesteps, as the named program sets them")
      .one_of(schedule_names())
      .add("negative_prompt", &T::negative_prompt, "",
           "text of the unconditional branch, or @FILE that holds it")
      .add("source", &T::source, "", "latent = cached latents, teacher replayed; live = nothing cached")
      .one_of({"latent", "live"});
  using D = DistillSection;
  SectionTable<D>(table, "distill", &Config::distill)
      .add("rates", &D::rates, "", "rates distilled in every block: integers above 1, and linear")
      .check(check_rates)
      .add("phi_degree", &D::phi_degree, "", "P: slices of phi raised to the powers 1..P")
      .range(1, 16)
      .add("phi_layers", &D::phi_layers, "", "L: layers of phi")
      .range(1, 16)
      .add("phi_output_activation", &D::phi_output_activation, "", "of phi, before the powers")
      .one_of({"softplus", "relu", "elu1", "exp", "square", "none"})
      .add("phi_last_bias", &D::phi_last_bias, "",
           "initial last bias of phi: the lower, the smaller the linear term at the start")
      .add("stabilizer", &D::stabilizer, "",
           "c_i of Eq. 5: row maximum (the paper's) or log-sum-exp over T_S")
      .one_of({"max", "lse"})
      .add("loss", &D::loss, "", "value = Eq. 7, attention = Eq. 6")
      .one_of({"value", "attention"})
      .add("linear_branch", &D::linear_branch, "",
           "false = softmax over T_S alone (ablation); its cost stays that of Eq. 5")
      .add("learning_rate", &D::learning_rate, "", "of AdamW")
      .range(0)
      .add("schedule", &D::schedule, "", "of the learning rate: constant, or cosine to 5 % over all updates")
      .one_of({"constant", "cosine"})
      .add("weight_decay", &D::weight_decay, "", "of AdamW")
      .range(0)
      .add("group_timesteps", &D::group_timesteps, "timesteps",
           "averaged in one update; 0 = a whole trajectory")
      .range(0)
      .add("updates_per_group", &D::updates_per_group, "updates", "U: made on one group of timesteps")
      .range(1)
      .add("epochs", &D::epochs, "passes", "over the training prompts")
      .range(1)
      .add("held_out_timesteps", &D::held_out_timesteps, "timesteps", "of each held-out prompt")
      .range(1)
      .add("blocks_per_unit", &D::blocks_per_unit, "blocks", "fed by one replay of the teacher; 0 = chosen")
      .range(0)
      .add("commit_every", &D::commit_every, "trajectories", "between commits of a block's state")
      .range(1)
      .add("attention_rows", &D::attention_rows, "rows", "sampled for the attention loss")
      .range(1);
}

void add_selection(std::vector<ConfigOption>& table) {
  SectionTable<CostSection>(table, "cost", &Config::cost)
      .clip("the clips that the cost is counted for")
      .add("measure", &CostSection::measure, "", "flops = counted; milliseconds = measured as well")
      .one_of({"flops", "milliseconds"});
  using S = SelectSection;
  SectionTable<S>(table, "select", &Config::select)
      .add("budget", &S::budget, "", "FLOPs (1.2e12), share of all-softmax (0.7), or blocks x rate (15xR4)")
      .check(check_budget)
      .add("pins", &S::pins, "", "blocks whose rate is given: BLOCK=RATE,... (0=1,29=1 keeps both softmax)")
      .check(check_pins)
      .add("mode", &S::mode, "", "heterogeneous = Eq. 8; homogeneous = one rate; softmax = the control")
      .one_of({"heterogeneous", "homogeneous", "softmax"})
      .add("homogeneous_rate", &S::homogeneous_rate, "", "rate of the homogeneous mode")
      .check(check_rate)
      .add("homogeneous_blocks", &S::homogeneous_blocks, "blocks",
           "converted; 0 = the fewest that meet the budget")
      .range(0)
      .add("column", &S::column, "", "cost column of the tables")
      .one_of({"flops", "milliseconds"});
}

void add_finetuning(std::vector<ConfigOption>& table) {
  using D = DataSection;
  SectionTable<D>(table, "data", &Config::data)
      .add("videos", &D::videos, "",
           "annotation listing (ROOT,ANNO lines), a folder of tar shards of latents, or shapes:SPLIT")
      .check(check_not_empty)
      .add("count", &D::count, "clips", "taken by run.seed of those that the filters leave; 0 = all")
      .range(0)
      .add("shards", &D::shards, "",
           "sets of latent shards to finetune on: FOLDER[=WEIGHT],..., the word own for the run's clips; "
           "without weights every sample counts alike; empty = own")
      .check(check_shard_sets)
      .clip("the training clips")
      .add("buckets", &D::buckets, "",
           "shapes of the training clips, each goes where it fits best: FRAMESxHEIGHTxWIDTH,...; empty = "
           "the one of frames, height and width")
      .check(check_buckets)
      .add("fps", &D::fps, "frames/second", "of the training clips")
      .range(0.1, 1000)
      .add("least_height", &D::least_height, "pixels", "of a source that is used; 0 = any")
      .range(0)
      .add("least_width", &D::least_width, "pixels", "of a source that is used; 0 = any")
      .range(0)
      .add("least_seconds", &D::least_seconds, "seconds", "that a source, or its cut, lasts; 0 = any")
      .range(0)
      .add("most_seconds", &D::most_seconds, "seconds", "that a source, or its cut, lasts; 0 = any")
      .range(0)
      .add("least_aesthetic", &D::least_aesthetic, "", "annotated score of a clip that is used; 0 = any")
      .range(0)
      .add("most_aspect", &D::most_aspect, "",
           "height / width of a source within the clip's own divided and multiplied by this; 0 = any")
      .check(check_aspect)
      .add("damaged", &D::damaged, "samples",
           "of the shards that finetuning passes over on a rank, each named; more end it")
      .range(0)
      .add("sharding", &D::sharding, "",
           "what the ranks of finetuning share out: none; optimizer: masters and moments (ZeRO-1); "
           "parameters: weights and gradients too (ZeRO-3)")
      .one_of(sharding_names());
  using F = FinetuneSection;
  SectionTable<F>(table, "finetune", &Config::finetune)
      .add("iterations", &F::iterations, "steps", "of the optimizer")
      .range(0)
      .add("global_batch", &F::global_batch, "clips", "of one step, over all ranks")
      .range(1)
      .add("micro_batch", &F::micro_batch, "clips", "of one forward and backward on one rank")
      .range(1)
      .add("learning_rate", &F::learning_rate, "", "of AdamW")
      .range(0)
      .add("beta1", &F::beta1, "", "of AdamW")
      .range(0, 0.999999)
      .add("beta2", &F::beta2, "", "of AdamW")
      .range(0, 0.999999999)
      .add("weight_decay", &F::weight_decay, "", "of AdamW")
      .range(0)
      .add("gradient_clip", &F::gradient_clip, "", "largest norm of the whole gradient; 0 = not clipped")
      .range(0)
      .add("train", &F::train, "",
           "parameters that are trained: all, hybrid-attention, or patterns of names (*.ffn.*), by commas")
      .check(check_not_empty)
      .add("schedule", &F::schedule, "", "of the learning rate after its warm-up")
      .one_of(rate_schedule_names())
      .add("warmup", &F::warmup, "steps", "over which the learning rate grows to its full value")
      .range(0)
      .add("final_rate", &F::final_rate, "", "share of the learning rate at the last step (linear, cosine)")
      .range(0, 1)
      .add("ema", &F::ema, "",
           "decay of a running average of the weights, which becomes the model; 0 = none, 0.999 is usual")
      .range(0, 0.999999)
      .add("noise_levels", &F::noise_levels, "", "how they are drawn, before the shift")
      .one_of(level_density_names())
      .add("logit_mean", &F::logit_mean, "", "of logit_normal noise levels")
      .add("logit_std", &F::logit_std, "", "of logit_normal noise levels")
      .range(0.001, 100)
      .add("mode_scale", &F::mode_scale, "", "of mode noise levels")
      .range(-1, 1.75)
      .add("loss_weighting", &F::loss_weighting, "", "of a clip's loss by its noise level")
      .one_of(LossWeighting::names())
      .add("validation_clips", &F::validation_clips, "clips",
           "withheld from training, whose loss is measured at noise of their own; 0 = none")
      .range(0)
      .add("validate_every", &F::validate_every, "steps", "between measurements, and at the end; 0 = never")
      .range(0)
      .add("shift", &F::shift, "", "time shift of the drawn noise levels")
      .range(0.001, 1000)
      .add("text_dropout", &F::text_dropout, "", "probability that a clip's text is dropped")
      .range(0, 1)
      .add("teacher_weight", &F::teacher_weight, "",
           "of the term that matches the teacher's velocity; 0 = none")
      .range(0)
      .add("checkpoints", &F::checkpoints, "steps", "after which the model is kept, increasing")
      .check(check_increasing)
      .add("save_every", &F::save_every, "steps",
           "between commits of the training state; 0 = only checkpoints")
      .range(0)
      .add("save_behind", &F::save_behind, "",
           "the training state is copied and written beside the next steps; no: written at once, without "
           "the copy's 12 bytes a parameter")
      .add("optimizer_device", &F::optimizer_device, "",
           "where masters, moments and average are kept and updated: with the model, or in the host's memory")
      .one_of({"model", "host"})
      .add("recompute", &F::recompute, "blocks",
           "every k-th block keeps its input alone and is computed again in backward; 0 = none, 1 = all")
      .range(0)
      .add("max_gradient", &F::max_gradient, "", "gradient of c_i with stabilizer max")
      .one_of({"through", "constant"})
      .add("precision", &F::precision, "", "of the student, as model.precision; master weights are fp32")
      .one_of(precision_names());
}

void add_generation(std::vector<ConfigOption>& table) {
  using G = GenerateSection;
  SectionTable<G>(table, "generate", &Config::generate)
      .add("prompts", &G::prompts, "", "prompt list, one a line, or shapes:SPLIT")
      .check(check_not_empty)
      .add("count", &G::count, "prompts", "used; 0 = all")
      .range(0)
      .add("samples", &G::samples, "videos", "per prompt")
      .range(1)
      .add("steps", &G::steps, "steps", "of the sampler")
      .range(1, 1000)
      .add("guidance", &G::guidance, "", "classifier-free guidance")
      .range(0)
      .add("shift", &G::shift, "", "time shift of the noise schedule")
      .range(0.001, 1000)
      .add("sampler", &G::sampler, "", "of generation")
      .one_of(sampler_names())
      .add("schedule", &G::schedule, "", "noise levels and timesteps, as the named program sets them")
      .one_of(schedule_names())
      .add("noise", &G::noise, "",
           "safetensors file: tensor noise [clips, 16, frames/4+1, height/8, width/8], the clips' initial "
           "noise; "
           "empty = drawn by run.seed")
      .add("negative_prompt", &G::negative_prompt, "",
           "text of the unconditional branch, or @FILE that holds it")
      .clip("the generated clips");
  SectionTable<EvaluateSection>(table, "evaluate", &Config::evaluate)
      .add("shapes_score", &EvaluateSection::shapes_score, "", "score clips of the shapes world");
}

std::vector<ConfigOption> make_table() {
  std::vector<ConfigOption> table;
  add_model_and_run(table);
  add_distillation(table);
  add_selection(table);
  add_finetuning(table);
  add_generation(table);
  return table;
}

}  // namespace

const std::vector<ConfigOption>& config_table() {
  static const std::vector<ConfigOption> table = make_table();
  return table;
}

const ConfigOption* find_option(std::string_view key) {
  for (const ConfigOption& option : config_table())
    if (option.key() == key) return &option;
  return nullptr;
}

}  // namespace surgery
