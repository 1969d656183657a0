#include "recipe/finetune_checkpoint.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/errors.h"
#include "base/log.h"
#include "base/text.h"
#include "parallel/agreed_error.h"
#include "parallel/quiet_thread.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string file_name(int rank, int ranks) {
  return fmt::format("state-{}-of-{}.safetensors", rank, ranks);
}

/// Adds the time of a scope.
class Exposed {
 public:
  explicit Exposed(double& sum) : sum_(sum), begin_(Clock::now()) {}
  ~Exposed() { sum_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }
  Exposed(const Exposed&) = delete;
  Exposed& operator=(const Exposed&) = delete;

 private:
  double& sum_;
  Clock::time_point begin_;
};

/// What a rank tells of its part: a line "name bytes hash", or why there is none.
struct Part {
  std::string line, failure;
  ExitCode code = ExitCode::io;
};

Part write_part(const fs::path& folder, const std::string& name, const TensorMap& tensors) {
  try {
    save_tensors(folder / name, tensors);
    const CheckpointFile file = seal_file(folder, name);
    return {fmt::format("{} {} {}", file.name, file.bytes, file.hash), ""};
  } catch (const Error& error) {
    return {"", error.what(), error.code()};
  } catch (const std::exception& error) {
    return {"", error.what(), ExitCode::internal};
  }
}

}  // namespace

struct FinetuneWriter::State {
  State(Session& s, fs::path r, std::string f, std::string o, std::vector<int64_t> m)
      : session(s),
        root(std::move(r)),
        fingerprint(std::move(f)),
        origin(std::move(o)),
        milestones(std::move(m)) {}

  Session& session;
  fs::path root;
  std::string fingerprint, origin;
  std::vector<int64_t> milestones;
  double exposed = 0;

  // The checkpoint that is under way.
  bool under_way = false;
  int64_t step = 0;
  fs::path folder;
  BucketLayout layout;
  Part part;
  std::atomic<bool> written = false;
  std::thread thread;

  std::string name() const { return file_name(session.rank(), session.size()); }

  /// The same folder on all ranks; what keeps rank 0 from making it stops all.
  void begin(const DataParallel& engine) {
    step = engine.steps();
    layout = engine.layout();
    std::string made;
    if (session.rank() == 0) {
      try {
        made = "+" + begin_checkpoint(root, step).string();
      } catch (const Error& error) {
        made = std::string("-") + error.what();
      }
    }
    made = session.world().broadcast_text(made, 0);
    if (made.starts_with('-')) throw AgreedError(ExitCode::io, made.substr(1));
    folder = made.substr(1);
    under_way = true;
  }

  void commit() {
    if (thread.joinable()) thread.join();
    under_way = false;
    const std::vector<std::string> lines = session.world().gather_text(part.line);
    const std::vector<std::string> failures = session.world().gather_text(
        part.failure.empty() ? "" : fmt::format("{} {}", static_cast<int>(part.code), part.failure));
    std::string result;  // of the commit, by rank 0
    for (size_t rank = 0; rank < failures.size() && result.empty(); ++rank)
      if (!failures[rank].empty()) {
        const size_t space = failures[rank].find(' ');
        result = fmt::format("{} rank {}: {}", failures[rank].substr(0, space), rank,
                             failures[rank].substr(space + 1));
      }
    if (session.rank() == 0) result = commit_parts(lines, result);
    result = session.world().broadcast_text(result, 0);
    if (result.empty()) return;
    const size_t space = result.find(' ');
    throw AgreedError(static_cast<ExitCode>(parse_number<int>(result.substr(0, space)).value()),
                      fmt::format("finetune: the checkpoint of iteration {} cannot be written, the one "
                                  "before is whole: {}",
                                  step, result.substr(space + 1)));
  }

  /// Rank 0. The failure that is known, or that comes up here: "CODE WORDS"; empty where all is well.
  std::string commit_parts(const std::vector<std::string>& lines, const std::string& failure) {
    if (!failure.empty()) {
      cleaned([&] { remove_folder(folder); });
      return failure;
    }
    try {
      std::vector<CheckpointFile> files;
      for (const std::string& line : lines) {
        const std::vector<std::string> words = split(line, ' ');
        files.push_back({words.at(0), parse_number<uint64_t>(words.at(1)).value(), words.at(2)});
      }
      nlohmann::json metadata{
          {"fingerprint", fingerprint}, {"world", session.size()}, {"buckets", layout.to_json()}};
      if (!origin.empty()) metadata["origin"] = origin;
      commit_checkpoint(folder, step, files, metadata);
    } catch (const Error& error) {
      cleaned([&] { remove_folder(folder); });
      return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
    cleaned([&] { prune_checkpoints(root, step, 2, milestones); });
    return {};
  }

  /// What cannot be cleared away is only in the way.
  static void cleaned(const std::function<void()>& clear) {
    try {
      clear();
    } catch (const Error& error) {
      log_warning("finetune: {}", error.what());
    }
  }
};

FinetuneWriter::FinetuneWriter(Session& session, fs::path root, std::string fingerprint, std::string origin,
                               std::vector<int64_t> milestones)
    : state_(std::make_unique<State>(session, std::move(root), std::move(fingerprint), std::move(origin),
                                     std::move(milestones))) {}

FinetuneWriter::~FinetuneWriter() {
  if (state_->thread.joinable()) state_->thread.join();
}

void FinetuneWriter::start(const DataParallel& engine) {
  finish();
  const Exposed exposed(state_->exposed);
  state_->begin(engine);
  TensorMap copies;
  for (const auto& [name, piece] : engine.state_piece())
    copies[name] = piece.is_cpu() ? piece.clone() : piece.cpu();
  state_->written = false;
  state_->thread = start_quiet_thread([s = state_.get(), copies = std::move(copies)] {
    s->part = write_part(s->folder, s->name(), copies);
    s->written = true;
  });
}

void FinetuneWriter::poll() {
  if (!state_->under_way) return;
  const Exposed exposed(state_->exposed);
  if (state_->session.world().all_reduce_value(state_->written ? 1 : 0, Reduction::min) > 0) state_->commit();
}

bool FinetuneWriter::under_way() const {
  return state_->under_way;
}

void FinetuneWriter::finish() {
  if (!state_->under_way) return;
  const Exposed exposed(state_->exposed);
  state_->commit();
}

void FinetuneWriter::write(const DataParallel& engine) {
  finish();
  const Exposed exposed(state_->exposed);
  state_->begin(engine);
  state_->part = write_part(state_->folder, state_->name(), engine.state_piece());
  state_->commit();
}

double FinetuneWriter::exposed_seconds() const {
  return state_->exposed;
}

std::optional<int64_t> newest_finetune(const fs::path& root, const std::string& fingerprint,
                                       const std::vector<int64_t>& milestones) {
  std::vector<int64_t> whole;
  for (const int64_t step : checkpoint_steps(root)) {
    if (step > milestones.back()) continue;
    try {
      const Checkpoint checkpoint = open_checkpoint(checkpoint_folder(root, step));
      const std::string made_with = checkpoint.metadata.value("fingerprint", "");
      if (made_with != fingerprint)
        fail_usage(
            "{}: made with other settings, data or student (fingerprint {} instead of {}): choose another "
            "run.directory, or move the finetune folder away",
            checkpoint.folder.string(), made_with, fingerprint);
      whole.push_back(step);
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      set_aside(checkpoint_folder(root, step), error.what());
    }
  }
  return resumable_step(whole, milestones);
}

std::optional<int64_t> resumable_step(const std::vector<int64_t>& whole,
                                      const std::vector<int64_t>& milestones) {
  const auto missing = std::ranges::find_if(
      milestones, [&](int64_t milestone) { return !std::ranges::binary_search(whole, milestone); });
  const int64_t last = missing == milestones.end() ? milestones.back() : *missing;
  const auto end = std::ranges::upper_bound(whole, last);
  if (end == whole.begin()) return std::nullopt;
  return *(end - 1);
}

namespace {

/// A checkpoint's files, mapped: parameters and moments by name, whoever cut them.
class FinetuneState {
 public:
  FinetuneState(const Checkpoint& checkpoint) : step_(checkpoint.step) {
    const auto& metadata = checkpoint.metadata;
    VALIDATE(metadata.contains("buckets") && metadata.value("world", 0) > 0,
             "{}: has no buckets (written by an earlier release): finetune again",
             checkpoint.folder.string());
    layout_ = BucketLayout::from_json(metadata["buckets"]);
    const int ranks = metadata["world"].get<int>();
    for (int rank = 0; rank < ranks; ++rank)
      files_.push_back(TensorStore::open_file(checkpoint.folder / file_name(rank, ranks)));
    for (size_t b = 0; b < layout_.buckets.size(); ++b)
      for (const auto& entry : layout_.buckets[b].entries) places_[entry.name] = {b, &entry};
  }

  int64_t step() const { return step_; }
  const BucketLayout& layout() const { return layout_; }
  bool has_average() const { return files_.front().contains("bucket-000.average"); }

  /// Elements of `what` of a parameter: mapped where one file holds them, else put together.
  at::Tensor read(const std::string& what, const std::string& parameter, int64_t begin, int64_t count) const {
    const auto found = places_.find(parameter);
    VALIDATE(
        found != places_.end(),
        "the checkpoint of iteration {} lacks {} (it is of another model): use the checkpoint of this one",
        step_, parameter);
    const auto& [bucket, entry] = found->second;
    VALIDATE(begin + count <= entry->count, "the checkpoint of iteration {} has another shape of {}", step_,
             parameter);
    const std::string name = fmt::format("bucket-{:03d}.{}", bucket, what);
    const int64_t length = layout_.buckets[bucket].size / std::ssize(files_);
    std::vector<at::Tensor> parts;
    for (int64_t at = entry->offset + begin, end = at + count; at < end;) {
      const int64_t file = at / length, skip = at % length, part = std::min(end - at, length - skip);
      const at::Tensor piece = files_.at(static_cast<size_t>(file)).get(name);
      VALIDATE(piece.numel() == length && piece.scalar_type() == at::kFloat,
               "{} of the checkpoint of iteration {} is not [{}] fp32 (damaged manifest)", name, step_,
               length);
      parts.push_back(piece.view(-1).narrow(0, skip, part));
      at += part;
    }
    return parts.size() == 1 ? parts.front() : at::cat(parts);
  }

 private:
  int64_t step_;
  BucketLayout layout_;
  std::vector<TensorStore> files_;
  std::map<std::string, std::pair<size_t, const BucketLayout::Entry*>> places_;
};

std::map<std::string, std::vector<int64_t>> shapes_of(const BucketLayout& layout) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& bucket : layout.buckets)
    for (const auto& entry : bucket.entries) shapes[entry.name] = entry.shape;
  return shapes;
}

}  // namespace

void load_finetune(const fs::path& folder, DataParallel& engine) {
  // Rank 0 has compared the hashes when it chose this one.
  const FinetuneState state(open_checkpoint(folder, CheckpointCheck::sizes));
  const auto known = shapes_of(state.layout()), wanted = shapes_of(engine.layout());
  VALIDATE(
      known == wanted,
      "{} holds {} parameters that are not the {} that are trained, by name and shape: use a checkpoint of "
      "this model",
      folder.string(), known.size(), wanted.size());
  const auto slot = [&](const std::string& what) {
    return what == "average" && !state.has_average() ? "parameter" : what;
  };
  engine.load([&](const std::string& what, const std::string& parameter, int64_t begin,
                  int64_t count) { return state.read(slot(what), parameter, begin, count); },
              state.step());
}

TensorMap load_finetuned_parameters(const fs::path& root, int64_t iteration) {
  const FinetuneState state(open_checkpoint(checkpoint_folder(root, iteration)));
  const std::string what = state.has_average() ? "average" : "parameter";
  TensorMap parameters;
  for (const auto& bucket : state.layout().buckets)
    for (const auto& entry : bucket.entries)
      parameters[entry.name] = state.read(what, entry.name, 0, entry.count).view(entry.shape);
  return parameters;
}

std::string content_hash(const Checkpoint& checkpoint) {
  std::string hashes;
  for (const CheckpointFile& file : checkpoint.files) hashes += file.hash;
  return hashes;
}

std::string finetune_checkpoint_hash(const fs::path& root, int64_t iteration) {
  return content_hash(open_checkpoint(checkpoint_folder(root, iteration), CheckpointCheck::sizes));
}

bool saves_behind(const FinetuneSection& f) {
  return f.save_behind && ((f.save_every > 0 && f.save_every < f.iterations) ||
                           milestone_list(f.checkpoints, f.iterations).size() > 1);
}

std::vector<int64_t> milestone_list(const std::string& typed, int64_t iterations) {
  const std::string text = without_spaces(typed);
  std::vector<int64_t> list{iterations};
  for (const std::string& part : text.empty() ? std::vector<std::string>() : split(text, ',')) {
    const int64_t value = parse_number<int64_t>(part).value_or(0);
    if (value <= 0)
      fail_usage("finetune.checkpoints: '{}' is no iteration: write numbers separated by commas (400,600)",
                 part);
    if (value <= iterations) list.push_back(value);
  }
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return list;
}

}  // namespace surgery
