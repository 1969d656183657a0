#include "app/command.h"
#include "app/startup.h"

namespace surgery {
namespace {

void print_text(const nlohmann::ordered_json& build, const nlohmann::ordered_json& ranks,
                const std::string& mpi) {
  fmt::print("{}\ncompiler    {}, {} build,{}\nLibTorch in {}\n\n", version_line(),
             build["compiler"].get<std::string>(), build["build_type"].get<std::string>(),
             build["flags"].get<std::string>(), build["torch_folder"].get<std::string>());
  fmt::print("{:<16}{:<12}{}\n", "library", "header", "run time");
  for (const auto& library : build["libraries"]) {
    const std::string runtime = library["runtime"].get<std::string>();
    fmt::print("{:<16}{:<12}{}\n", library["name"].get<std::string>(), library["header"].get<std::string>(),
               runtime.empty() ? "(does not tell)" : runtime);
  }
  fmt::print("MPI             {}\n\n{:>6}  {:<24}{:>8}{:>10}{:>14}{:>15}  {}\n", mpi, "rank", "host", "cores",
             "threads", "memory, GiB", "CUDA devices", "affinity");
  for (const auto& rank : ranks)
    fmt::print("{:>6}  {:<24}{:>8}{:>10}{:>14.1f}{:>15}  {}\n", rank["rank"].get<int>(),
               rank["host"].get<std::string>(), rank["cores"].get<int>(), rank["threads"].get<int>(),
               rank["memory_bytes"].get<double>() / (1 << 30), rank["cuda_devices"].get<int>(),
               rank["affinity"].get<std::string>());
}

ExitCode run(Context& context) {
  const nlohmann::ordered_json ranks = describe_ranks(context.session);
  if (context.session.rank() != 0) return ExitCode::done;
  nlohmann::ordered_json build = describe_build();
  if (!context.options.has("json")) {
    print_text(build, ranks, context.session.library());
    return ExitCode::done;
  }
  build["mpi"] = context.session.library();
  build["ranks"] = ranks;
  fmt::print("{}\n", build.dump(2));
  return ExitCode::done;
}

}  // namespace

Command info_command() {
  return {"info",
          "build, libraries, devices, ranks",
          run,
          CommandKind::tool,
          {{"json", "", "print as JSON", false}},
          ""};
}

}  // namespace surgery
