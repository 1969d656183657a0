#include "app/options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "app/startup.h"

namespace surgery {
namespace {

const Command command{"cut",
                      "a command for the tests",
                      {},
                      CommandKind::tool,
                      {{"model", "DIR", "the model", false}, {"json", "", "print as JSON", false}},
                      ""};

/// A file that lives as long as its test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    static int count = 0;
    path_ = testing::TempDir() + fmt::format("surgery-options-{}-{}.cfg", getpid(), count++);
    std::ofstream(path_) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Config resolve(const std::vector<std::string>& arguments) {
  return resolve_config(parse_arguments(command, arguments));
}

std::string usage_error(const std::vector<std::string>& arguments, const Command& of = command) {
  try {
    resolve_config(parse_arguments(of, arguments));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  ADD_FAILURE() << "was accepted";
  return "";
}

TEST(Options, ValuesComeWithEqualSignOrAsTheNextArgument) {
  EXPECT_EQ(resolve({"--run.seed=7"}).run.seed, 7u);
  EXPECT_EQ(resolve({"--run.seed", "7"}).run.seed, 7u);
  EXPECT_EQ(resolve({"--distill.phi_last_bias", "-5"}).distill.phi_last_bias, -5);
  EXPECT_EQ(resolve({"--select.pins="}).select.pins, "");
  EXPECT_EQ(resolve({"--trajectories.negative_prompt=a=b c"}).trajectories.negative_prompt, "a=b c");
}

TEST(Options, BareOptionsBelongToTheCommand) {
  const ParsedArguments parsed = parse_arguments(command, {"--model", "folder", "--json", "--run.seed=1"});
  EXPECT_TRUE(parsed.faults.empty());
  EXPECT_EQ(parsed.options.text("model"), "folder");
  EXPECT_TRUE(parsed.options.has("json"));
  EXPECT_FALSE(parsed.options.has("help"));
  ASSERT_EQ(parsed.settings.size(), 1u);
}

TEST(Options, NumbersOfBareOptionsAreChecked) {
  CommandLine line;
  line.set("steps", "12");
  line.set("rate", "fast");
  EXPECT_EQ(line.integer("steps", 1), 12);
  EXPECT_EQ(line.integer("absent", 5), 5);
  EXPECT_THROW(line.number("rate", 1), Error);
  EXPECT_THROW(line.text("absent"), Error);
}

TEST(Options, FilesComposeInOrderAndTheCommandLineWins) {
  const TemporaryFile first("[run]\nseed = 1\nthreads = 3  # of two cores\n\n[select]\nbudget=15xR4\n");
  const TemporaryFile second("; run.seed below\n[run]\nseed = 2\n");
  // Boost's INI knows '#' alone as a comment: the line with ';' must be refused, not taken for an option.
  EXPECT_NE(usage_error({"--config", second.path()}).find(":1: '; run.seed below'"), std::string::npos);
  const TemporaryFile third("\xEF\xBB\xBF[run]\r\nseed = 3\r\n");
  EXPECT_EQ(resolve({"--config", first.path()}).run.seed, 1u);
  EXPECT_EQ(resolve({"--config", first.path(), "--config=" + third.path()}).run.seed, 3u);
  EXPECT_EQ(resolve({"--config=" + third.path(), "--config", first.path()}).run.seed, 1u);
  EXPECT_EQ(resolve({"--run.seed=4", "--config=" + third.path()}).run.seed, 4u);
  EXPECT_EQ(resolve({"--config", first.path()}).run.threads, 3);
  EXPECT_EQ(resolve({"--config", first.path()}).select.budget, "15xR4");
}

TEST(Options, AllFaultsComeTogetherWithTheirPlaces) {
  const TemporaryFile file("[run]\nsede = 1\nseed\n[distil]\nrates = 2\n[finetune]\nmicro_batch = x\n");
  const std::string message = usage_error(
      {"--config", file.path(), "--config", "/absent.cfg", "--run.threads=-1", "--modle=x", "stray"});
  for (const std::string& part :
       {std::string("8 faults"), file.path() + ":2: unknown option run.sede: did you mean run.seed?",
        file.path() + ":3: 'seed' is neither [section] nor key = value",
        file.path() + ":5: unknown option distil.rates: did you mean distill.rates?",
        file.path() + ":7: finetune.micro_batch = 'x' is not an integer",
        std::string("/absent.cfg: cannot be read"),
        std::string("command line: run.threads = '-1' must be 0 to 65536"),
        std::string("cut has no option --modle: did you mean --model?"),
        std::string("unexpected argument 'stray'")})
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nin\n" << message;
}

TEST(Options, UnknownOptionsNameTheNearest) {
  EXPECT_NE(usage_error({"--run.sead=1"}).find("did you mean run.seed?"), std::string::npos);
  EXPECT_NE(usage_error({"--jsno"}).find("did you mean --json?"), std::string::npos);
  EXPECT_NE(usage_error({"--homogeneous_rate=4"}).find("did you mean --select.homogeneous_rate?"),
            std::string::npos);
  EXPECT_NE(usage_error({"-x"}).find("two dashes"), std::string::npos);
}

TEST(Options, MissingValuesAreFaults) {
  EXPECT_NE(usage_error({"--model"}).find("model"), std::string::npos);
  EXPECT_NE(usage_error({"--run.seed"}).find("run.seed"), std::string::npos);
  Command strict = command;
  strict.options[0].required = true;
  EXPECT_NE(usage_error({}, strict).find("cut needs --model DIR"), std::string::npos);
}

TEST(Options, PositionalArgumentsGoToCommandsThatTakeThem) {
  Command inspect = command;
  inspect.positional = "FILE...";
  const ParsedArguments parsed = parse_arguments(inspect, {"a.h5", "--json", "b.h5", "--", "--odd"});
  EXPECT_TRUE(parsed.faults.empty());
  EXPECT_EQ(parsed.options.positional(), (std::vector<std::string>{"a.h5", "b.h5", "--odd"}));
}

TEST(Options, PrintedConfigurationReadsBackFromAFile) {
  const Config config =
      resolve({"--run.seed=9", "--distill.learning_rate=0.00025",
               "--finetune.checkpoints=", "--trajectories.negative_prompt=low = bad; [odd]"});
  const TemporaryFile file(to_ini(config));
  EXPECT_EQ(to_ini(resolve({"--config", file.path()})), to_ini(config));
}

std::string without_space(const std::string& text) {
  std::string result;
  for (const char c : text)
    if (!std::isspace(static_cast<unsigned char>(c))) result += c;
  return result;
}

TEST(Options, HelpNamesEveryOptionWithUnitAndDefault) {
  const std::string help = without_space(general_help()), one = without_space(command_help(command));
  for (const ConfigOption& option : config_table()) {
    for (const std::string* text : {&help, &one}) {
      EXPECT_NE(text->find("--" + option.key()), std::string::npos) << option.key();
      EXPECT_NE(text->find(without_space(option.description())), std::string::npos) << option.description();
    }
  }
  for (const Command& known : commands())
    EXPECT_NE(general_help().find(known.summary), std::string::npos) << known.name;
  EXPECT_NE(one.find("--modelDIR"), std::string::npos);
}

/// LibTorch's own default for convolutions is TF32, three decimal digits.
TEST(Startup, Fp32IsFp32OnGpusToo) {
  forbid_tf32();
  EXPECT_FALSE(at::globalContext().allowTF32CuDNN());
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
}

TEST(Options, UnknownCommandsNameTheNearest) {
  EXPECT_EQ(find_command("info").name, "info");
  try {
    find_command("infi");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("did you mean info?"), std::string::npos);
  }
}

}  // namespace
}  // namespace surgery
