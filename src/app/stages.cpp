// The commands that make a run: the whole recipe, or one stage the same way.
#include "app/command.h"
#include "base/errors.h"
#include "base/log.h"
#include "base/signals.h"
#include "data/video_tars.h"
#include "recipe/check_set.h"
#include "recipe/encode_web_dataset.h"
#include "recipe/recipe.h"
#include "recipe/selection.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

using Stage = std::function<bool(Recipe&)>;

ExitCode run_stage(Context& context, const Stage& stage) {
  Recipe recipe(context.session, context.config, context.config_text);
  if (stage(recipe)) return ExitCode::done;
  const auto stop_file = recipe.run.stop_file();
  log_info("stopped on request with work left: {}the same command continues",
           std::filesystem::exists(stop_file) ? fmt::format("remove {}, and ", stop_file.string()) : "");
  return ExitCode::requeue;
}

Command stage_command(const std::string& name, const std::string& summary, const Stage& stage) {
  const auto run = [stage](Context& context) { return run_stage(context, stage); };
  return {name, summary, run, CommandKind::recipe, {}, "", StopSignals::commit};
}

// `select` on any table: no run, no model.
ExitCode select_alone(Context& context) {
  SelectSection config = context.config.select;
  if (context.options.has("budget")) config.budget = context.options.text("budget");
  const Selection selection = select_rates(read_tables(context.options.text("tables")), config);
  if (context.session.rank() != 0) return ExitCode::done;
  const std::string json = selection_json(selection);
  if (context.options.has("output"))
    write_file(context.options.text("output"), json);
  else
    fmt::print("{}", json);
  log_line("note",
           fmt::format("{}: error {:.6g}, cost {:.6g} of budget {:.6g} ({:.1f} % of all-softmax), {}",
                       selection.mode, selection.error, selection.cost, selection.budget,
                       100 * selection.cost / selection.softmax_cost,
                       selection.optimal ? "proven optimal" : fmt::format("bound {:.6g}", selection.bound)));
  return ExitCode::done;
}

// `encode --check`: no run, no model.
ExitCode check_alone(Context& context) {
  const std::string rejects = context.options.text("output", "");
  const bool decode = context.options.has("decode");
  const SetReport report =
      holds_latents(context.config.data.videos)
          ? check_web_latents(context.session, context.config, rejects)
          : check_set(context.session, context.config, decode ? ClipLook::decode : ClipLook::probe, rejects);
  if (context.session.rank() == 0) fmt::print("{}", set_report_text(report));
  return report.usable() > 0 ? ExitCode::done : ExitCode::data;
}

}  // namespace

Command run_command() {
  return stage_command("run", "the whole recipe, making what is missing", make_everything);
}
Command cache_command() {
  return stage_command("cache", "the teacher's trajectories", make_trajectories);
}
Command distill_command() {
  return stage_command("distill", "feature maps of every block and rate", make_distillation);
}
Command tables_command() {
  return stage_command("tables", "error and cost tables", make_tables);
}
Command finetune_command() {
  return stage_command("finetune", "data-parallel finetuning of the student", make_finetuning);
}
Command generate_command() {
  Command command =
      stage_command("generate", "clips of teacher and students, or a set to train on", make_samples);
  const auto videos = command.run;
  command.run = [videos](Context& context) {
    const std::string to = context.options.text("to", "videos"), output = context.options.text("output", "");
    if (to != "videos" && to != "shards") fail_usage("generate: --to = '{}' is none of videos, shards", to);
    if (to == "shards") return run_stage(context, [&](Recipe& r) { return make_synthetic_set(r, output); });
    if (context.options.has("output"))
      fail_usage("generate: --output goes with --to shards: videos lie in the run's folder");
    return videos(context);
  };
  command.options = {
      {"to", "WORD", "videos; or shards: the teacher's clips as latent shards, for data.shards [videos]",
       false},
      {"output", "FOLDER", "with --to shards: where they go [synthetic in the run's folder]", false}};
  return command;
}
Command evaluate_command() {
  return stage_command("evaluate", "scores against the teacher", make_evaluation);
}
Command report_command() {
  Command command = stage_command(
      "report", "the run's report.html, of what is there if the run is not finished", make_report);
  command.configured_by_run = true;
  const auto of_run = command.run;
  command.run = [of_run](Context& context) {
    const std::string& folder = context.config.run.directory;
    if (!std::filesystem::is_directory(folder))
      fail_io("{}: no such run (there is nothing to report on): check run.directory", folder);
    return of_run(context);
  };
  return command;
}

Command encode_command() {
  Command command =
      stage_command("encode", "videos + captions, or tar shards of latents, to latent shards", make_latents);
  const auto encode = command.run;
  command.run = [encode](Context& context) {
    const CommandLine& options = context.options;
    if (options.has("check")) {
      release_stop_signals();
      return check_alone(context);
    }
    if (options.has("decode") || options.has("output"))
      fail_usage("encode: --decode and --output go with --check");
    return encode(context);
  };
  command.options = {
      {"check", "", "look at the set that data.videos names, make nothing; needs no model", false},
      {"decode", "", "with --check: read all frames of every clip, not its header alone", false},
      {"output", "FILE", "with --check: list what is left out, with the reasons", false}};
  return command;
}

Command select_command() {
  Command command =
      stage_command("select", "rates within a budget, from a run's tables or from any table", make_selection);
  const auto in_run = command.run;
  command.run = [in_run](Context& context) {
    if (context.options.has("tables")) {
      release_stop_signals();
      return select_alone(context);
    }
    if (context.options.has("budget") || context.options.has("output"))
      fail_usage("select: --budget and --output go with --tables FILE: for a run say --select.budget");
    return in_run(context);
  };
  command.kind = CommandKind::tool;
  command.options = {{"tables", "FILE", "tables.csv or tables.h5 to select from, without a run", false},
                     {"budget", "B", "with --tables, short for --select.budget", false},
                     {"output", "FILE", "with --tables: where the selection goes [standard output]", false}};
  return command;
}

}  // namespace surgery
