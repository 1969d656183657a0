#include "data/inspect.h"

#include "app/command.h"
#include "app/inspect_run.h"

namespace surgery {
namespace {

ExitCode run(Context& context) {
  const std::vector<std::string>& files = context.options.positional();
  if (files.empty())
    fail_usage("inspect: no file was given: name artifacts, models, runs, videos or folders");
  if (context.session.rank() != 0) return ExitCode::done;
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& file : files) {
    const auto of_run = inspect_run(file);
    nlohmann::ordered_json found = of_run ? *of_run : inspect_file(file);
    if (!context.options.has("json")) {
      if (files.size() > 1) fmt::print("{}{}\n", file == files.front() ? "" : "\n", file);
      fmt::print("{}", inspection_text(found));
      continue;
    }
    found["path"] = file;
    all.push_back(std::move(found));
  }
  // Names and headers come from anywhere: what is not UTF-8 in them is shown as U+FFFD.
  if (context.options.has("json"))
    fmt::print("{}\n", (files.size() == 1 ? all.front() : all)
                           .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  return ExitCode::done;
}

}  // namespace

Command inspect_command() {
  return {"inspect",
          "what any artifact, model, run, video or folder holds; checksums are verified",
          run,
          CommandKind::tool,
          {{"json", "", "print as JSON (an object, or an array for several files)", false}},
          "FILE..."};
}

}  // namespace surgery
