#include "recipe/recipe.h"

#include <torch/cuda.h>

#include <algorithm>
#include <fstream>

#include "base/clock.h"
#include "base/errors.h"
#include "base/log.h"
#include "base/signals.h"
#include "data/shapes.h"
#include "parallel/nccl_communicator.h"
#include "recipe/artifact.h"
#include "recipe/model_parts.h"
#include "recipe/negative_prompt.h"
#include "recipe/plan.h"
#include "recipe/precision.h"
#include "recipe/streaming.h"
#include "recipe/vae_settings.h"
#include "storage/atomic_file.h"

namespace surgery {

at::Device choose_device(const std::string& name, const Session& session) {
  if (name == "cpu") return at::kCPU;
  const bool has_cuda = torch::cuda::is_available();
  if (name == "cuda" && !has_cuda)
    fail_usage(
        "model.device: cuda asked for, but LibTorch finds no CUDA device: use cpu, or a build with CUDA on a "
        "GPU");
  if (name != "cuda" && name != "auto") fail_usage("model.device: '{}' is none of auto, cpu, cuda", name);
  if (!has_cuda) return at::kCPU;
  const auto devices = static_cast<int>(torch::cuda::device_count());
  if (devices > 1 && session.local_rank() >= devices)
    fail_usage("local rank {} has no GPU of its own ({} visible): start at most one rank per GPU",
               session.local_rank(), devices);
  return {at::kCUDA, static_cast<c10::DeviceIndex>(devices == 1 ? 0 : session.local_rank())};
}

namespace {

/// After a kill the file may end in half a line: that one is lost, this one is not.
void append_line(const std::filesystem::path& path, const std::string& line) {
  bool whole = true;
  if (std::ifstream before(path, std::ios::ate | std::ios::binary); before && before.tellg() > 0) {
    before.seekg(-1, std::ios::end);
    whole = before.get() == '\n';
  }
  std::ofstream file(path, std::ios::app);
  file << (whole ? "" : "\n") << line << '\n';
  file.flush();
  if (!file) fail_io("{}: cannot be written (is the disk full?)", path.string());
}

// What --run.resume allows, said aloud: a failed resume must never become a silent fresh start.
void check_run(const RunDirectory& run, const std::string& resume) {
  const bool exists = std::filesystem::exists(run.config());
  if (resume == "must" && !exists)
    fail_usage("run.resume=must, but {} holds no run to continue: check run.directory", run.root().string());
  if (resume == "never" && exists)
    fail_usage("run.resume=never, but {} holds a run already: choose another run.directory",
               run.root().string());
  run.check_base();
  run.check_not_stopped();
  log_info("{}: {}", run.root().string(),
           exists ? "continues what is there" : "starts fresh, nothing is there yet");
}

}  // namespace

Recipe::Recipe(Session& session_, Config config_, std::string config_text)
    : session(session_),
      config(std::move(config_)),
      run(config.run.directory, config.run.base),
      device(choose_device(config.model.device, session)),
      text_config_(std::move(config_text)),
      control_(std::make_unique<RunControl>(run.stop_file(), run.save_file(), stop_time())) {
  if (part_place(config.model, ModelPart::transformer).empty())
    fail_usage("model.path is not set: name the folder of the teacher (or a recipe that does, by --config)");
  if (session.rank() == 0) {
    check_run(run, config.run.resume);
    std::error_code error;
    std::filesystem::create_directories(run.root(), error);
    if (error) fail_io("{}: cannot make the run directory ({})", run.root().string(), error.message());
    remove_stale_temporaries(run.root());
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             run.root(), std::filesystem::directory_options::skip_permission_denied, error))
      if (entry.is_directory() && !entry.path().filename().string().starts_with('.'))
        remove_stale_temporaries(entry.path());
    // An existing one is replaced when the first stage has found that its artifacts fit (StageTimer::done).
    if (!std::filesystem::exists(run.config())) keep_config();
  }
  session.world().barrier();
  if (parse_stall_limits(config.run.stall_minutes).any()) watchdog_ = std::make_unique<Watchdog>(session);
}

const TransformerConfig& Recipe::teacher_config() {
  if (!teacher_config_) {
    const auto place = required_place(config.model, ModelPart::transformer);
    TransformerConfig found = Transformer::read_config(place);
    if (found.hybrid)
      fail_usage(
          "{}: is hybrid already (errors are told against a teacher of full softmax): give the model that "
          "it was made from",
          place.string());
    teacher_config_ = std::move(found);
  }
  return *teacher_config_;
}

Precision Recipe::precision() const {
  return parse_precision(precision_name());
}

std::string Recipe::precision_name() const {
  return surgery::precision_name(config.model, !device.is_cpu());
}

bool Recipe::streams() {
  if (streams_) return *streams_;
  if (config.model.stream != "auto") {
    streams_ = config.model.stream == "yes";
    if (*streams_) log_info("blocks are streamed from their files (model.stream = yes)");
    return *streams_;
  }
  const ModelSizes sizes = read_model_sizes(config.model);
  const double weights = resident_weights(sizes, precision().dtype, text_precision());
  const double memory = rank_memory(config, device, session.local_size());
  streams_ = streams_blocks(config.model.stream, weights, memory);
  if (*streams_)
    log_info("blocks are streamed from their files (model.stream = auto; {} of weights, {} of memory a rank)",
             bytes_text(weights), bytes_text(memory));
  return *streams_;
}

const Transformer& Recipe::teacher() {
  if (!teacher_) teacher_.emplace(load_transformer(precision()));
  return *teacher_;
}

at::ScalarType Recipe::text_precision() const {
  return surgery::text_precision(config.model, !device.is_cpu());
}

Transformer Recipe::load_transformer(Precision precision, bool streamed) {
  Transformer transformer = Transformer::load(required_place(config.model, ModelPart::transformer));
  transformer.set_requires_grad(false);
  if (streamed || streams()) transformer.stream();
  transformer.to(device, precision);
  return transformer;
}

const Vae& Recipe::vae() {
  if (!vae_) vae_ = load_vae(config.model, device);
  return *vae_;
}

VaeConfig Recipe::vae_config() {
  return vae_ ? vae_->config() : Vae::read_config(required_place(config.model, ModelPart::vae));
}

const Tokenizer& Recipe::tokenizer() {
  if (!tokenizer_) {
    const auto place = required_tokenizer_place(config.model);
    tokenizer_content(place);  // names the option where it is not there
    tokenizer_.emplace(Tokenizer::load(place));
  }
  return *tokenizer_;
}

const TextEncoder& Recipe::text_encoder() {
  if (!text_encoder_) {
    TextEncoder encoder = TextEncoder::load(required_place(config.model, ModelPart::text_encoder));
    if (streams()) encoder.stream();
    encoder.to(device, text_precision());
    text_encoder_.emplace(std::move(encoder));
  }
  return *text_encoder_;
}

int64_t Recipe::text_length() {
  return tokenizer().max_length();
}

std::string Recipe::hash_files(const std::function<std::vector<std::filesystem::path>()>& list) {
  std::string hash;
  if (session.rank() == 0) {
    std::vector<std::string> parts;
    for (const auto& file : list()) {
      parts.push_back(file.filename().string());
      parts.push_back(hash_file(file));
    }
    hash = make_fingerprint(parts);
  }
  return session.world().broadcast_text(hash, 0);
}

const std::string& Recipe::transformer_hash() {
  if (transformer_hash_.empty()) {
    transformer_hash_ = hash_files([&] {
      return content_of(
          require_part(ModelPart::transformer, required_place(config.model, ModelPart::transformer)));
    });
    if (precision_name() != "fp32") transformer_hash_ += " " + precision_name();
  }
  return transformer_hash_;
}
const std::string& Recipe::vae_hash() {
  if (vae_hash_.empty())
    vae_hash_ = hash_files([&] {
      return content_of(require_part(ModelPart::vae, required_place(config.model, ModelPart::vae)));
    });
  return vae_hash_;
}
const std::string& Recipe::text_hash() {
  if (text_hash_.empty())
    text_hash_ = hash_files([&] {
      auto files = content_of(
          require_part(ModelPart::text_encoder, required_place(config.model, ModelPart::text_encoder)));
      for (auto& file : tokenizer_content(required_tokenizer_place(config.model))) files.push_back(file);
      return files;
    });
  return text_hash_;
}

const std::string& Recipe::negative_prompt(const std::string& setting) {
  const auto found = negative_prompts_.find(setting);
  if (found != negative_prompts_.end()) return found->second;
  return negative_prompts_[setting] = surgery::negative_prompt(setting);
}

std::string Recipe::text_rows_hash() {
  return text_hash() + (text_precision() == at::kFloat ? "" : " bf16");
}

at::Tensor Recipe::embed(const std::string& prompt) {
  at::Tensor rows = embed_prompt(tokenizer(), text_encoder(), prompt);
  VALIDATE(at::isfinite(rows).all().item<bool>(),
           "the text encoder's rows of '{}' are not finite (its weights are unusable): check the model",
           prompt);
  return rows;
}

std::vector<int64_t> Recipe::latent_shape(int64_t frames, int64_t height, int64_t width) {
  if (frames < 1 || (frames - 1) % 4 != 0)
    fail_usage("{} frames: the VAE needs 4k+1 (1, 5, 9, 13, 17, ...)", frames);
  if (height < 16 || width < 16 || height % 16 != 0 || width % 16 != 0)
    fail_usage("size {}x{}: height and width must be multiples of 16 (VAE 8, patch 2)", height, width);
  return {1, 16, (frames - 1) / 4 + 1, height / 8, width / 8};
}

bool Recipe::stop_requested() const {
  control_->look();
  return surgery::stop_requested();
}

std::unique_ptr<Communicator> Recipe::communicator() const {
  auto host = session.duplicate();
  if (!device.is_cuda() || session.size() == 1 || !has_nccl()) return host;
  return make_nccl_communicator(std::move(host), device);
}

RunWish Recipe::wish() const {
  if (stop_requested()) return RunWish::stop;
  return session.rank() == 0 && control_->save_asked() ? RunWish::save : RunWish::none;
}

void Recipe::saved() const {
  if (session.rank() == 0) control_->saved();
}

void Recipe::progress(const std::string& where) const {
  if (watchdog_) watchdog_->beat(where);
}

void Recipe::check_stop(std::string_view what) const {
  progress(std::string(what));
  if (stop_requested()) fail(ExitCode::requeue, "{}: stopped as asked", what);
}

void Recipe::keep_config() const {
  if (!std::filesystem::exists(run.config()) || read_file(run.config()) != text_config_)
    write_file(run.config(), text_config_);
}

void Recipe::metric(const std::string& json_line) const {
  if (session.rank() == 0) append_line(run.metrics(), json_line);
}

void Recipe::event(const std::string& json_line) const {
  append_line(run.events(session.rank()), json_line);
}

void Recipe::ledger(const std::string& json_line) const {
  if (session.rank() == 0) append_line(run.ledger(), json_line);
}

void Recipe::make_folder(const std::filesystem::path& folder) const {
  if (session.rank() == 0) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) fail_io("{}: cannot make the folder ({})", folder.string(), error.message());
  }
  session.world().barrier();
}

StageTimer::StageTimer(const Recipe& recipe, std::string stage, bool looks)
    : recipe_(recipe), stage_(std::move(stage)), looks_(looks), start_(steady_seconds()) {
  const std::string name = stage_.substr(0, stage_.find(' '));  // of "generate teacher" the first
  EXPECT(std::ranges::find(kStages, std::string_view(name)) != kStages.end());
  if (!recipe_.watchdog_) return;
  recipe_.watchdog_->enter(stage_, parse_stall_limits(recipe_.config.run.stall_minutes).seconds(name));
}

StageTimer::~StageTimer() {
  if (recipe_.watchdog_) recipe_.watchdog_->leave();
  if (told_ || recipe_.session.rank() != 0) return;
  try {
    recipe_.ledger(ledger_line("failed").dump());
  } catch (const std::exception& error) {  // the failure that ends the stage is on its way already
    log_warning("{}", error.what());
  }
}

void StageTimer::done(int64_t made, int64_t reused, int64_t left) {
  told_ = true;
  if (recipe_.session.rank() != 0) return;
  if (!looks_) recipe_.keep_config();
  nlohmann::ordered_json line = ledger_line(left > 0 ? "stopped" : "done");
  line["made"] = made;
  line["reused"] = reused;
  line["left"] = left;
  recipe_.ledger(line.dump());
  if (made == 0 && left == 0)
    log_info("{}: nothing to make, {} reused", stage_, reused);
  else
    log_info("{}: {} made, {} reused, {:.1f} s{}", stage_, made, reused, line["seconds"].get<double>(),
             left > 0 ? fmt::format("; stopped with {} left to make", left) : "");
}

nlohmann::ordered_json StageTimer::ledger_line(const std::string& outcome) const {
  const double seconds = steady_seconds() - start_;
  nlohmann::ordered_json line;
  line["stage"] = stage_;
  line["ranks"] = recipe_.session.size();
  line["device"] = recipe_.device.str();
  line["seconds"] = seconds;
  line["device_seconds"] = seconds * recipe_.session.size();
  line["outcome"] = outcome;
  return line;
}

}  // namespace surgery
