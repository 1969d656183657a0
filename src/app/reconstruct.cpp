// Videos through the VAE and back: what its compression alone costs.
#include <fmt/ranges.h>

#include <algorithm>

#include "app/command.h"
#include "base/log.h"
#include "data/manifest.h"
#include "data/pixels.h"
#include "data/video_suffixes.h"
#include "parallel/coordinator.h"
#include "recipe/model_parts.h"
#include "recipe/recipe.h"
#include "recipe/vae_settings.h"
#include "report/metrics.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Source {
  fs::path video;
  std::string name;  // as listed
  ClipSpec spec;
};

ClipSpec clip_spec(const DataSection& data) {
  ClipSpec spec;
  spec.frames = data.frames;
  spec.fps = data.fps;
  spec.height = data.height;
  spec.width = data.width;
  spec.small_source = SmallSource::upscale;
  return spec;
}

bool is_listing(const fs::path& path) {
  return path.extension() == ".txt" || path.extension() == ".json";
}

/// The files of a folder that are called like videos, the clips of a listing, or the one video. Error{data}
/// for none, Error{io} for what is not there.
std::vector<Source> sources(const fs::path& input, const ClipSpec& spec) {
  std::vector<Source> found;
  std::error_code code;
  if (!fs::exists(input, code)) fail_io("{}: no such file or folder: check --input", input.string());
  if (fs::is_directory(input)) {
    for (const auto& entry : fs::directory_iterator(input))
      if (entry.is_regular_file() && is_video_name(entry.path().filename().string()))
        found.push_back({entry.path(), entry.path().filename().string(), spec});
    std::ranges::sort(found, {}, &Source::name);
  } else if (is_listing(input)) {
    const Manifest manifest = read_manifest(input);
    for (const RejectedRecord& bad : manifest.rejected) log_warning("left out {}: {}", bad.where, bad.reason);
    for (const ManifestRecord& record : manifest.records)
      found.push_back({find_video(record.path), record.id, record.clip_spec(spec)});
  } else {
    found.push_back({input, input.filename().string(), spec});
  }
  VALIDATE(!found.empty(), "{}: holds no video ({}): give another --input", input.string(),
           fmt::join(kVideoSuffixes, ", "));
  return found;
}

/// "0003-name.mp4": listings may name the same file twice.
std::string output_name(size_t index, const Source& source) {
  return fmt::format("{:04d}-{}.mp4", index, fs::path(source.name).stem().string());
}

/// Decibels of the clip that comes back, which is written beside.
Json reconstruct_clip(const Vae& vae, at::Device device, const Source& source, const fs::path& output) {
  const at::NoGradGuard no_grad;
  VALIDATE(fs::exists(source.video), "{}: no such video file: check the listing", source.video.string());
  const Clip clip = load_clip(source.video, source.spec);
  const at::Tensor latents = vae.encode(frames_to_video(clip.pixels.to(device))).mean;
  const at::Tensor frames = video_to_frames(vae.decode(latents)).to(at::kCPU);
  WriteSpec spec;
  spec.fps = source.spec.fps;
  write_mp4(output, frames, spec);
  const double decibels = psnr(frames.to(at::kFloat), clip.pixels.to(at::kFloat), 255);
  return {{"psnr", std::min(decibels, kMostDecibels)}, {"file", output.filename().string()}};
}

/// Quoted as RFC 4180 asks for.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

void write_results(const fs::path& folder, const Json& clips, double mean) {
  write_file(folder / "reconstruction.json", Json{{"mean_psnr", mean}, {"clips", clips}}.dump(2) + "\n");
  std::string csv = "video,file,psnr,error\n";
  for (const Json& clip : clips)
    csv += fmt::format("{},{},{},{}\n", csv_field(clip["video"].get<std::string>()),
                       csv_field(clip.value("file", "")),
                       clip.contains("psnr") ? fmt::format("{:.4f}", clip["psnr"].get<double>()) : "",
                       csv_field(clip.value("error", "")));
  write_file(folder / "reconstruction.csv", csv);
}

/// Every rank's clips, in the order of the sources.
Json gather(Session& session, const Json& mine) {
  std::vector<Json> all;
  for (const std::string& text : session.world().gather_text(mine.dump()))
    for (Json& clip : Json::parse(text)) all.push_back(std::move(clip));
  std::ranges::sort(all, {}, [](const Json& clip) { return clip["index"].get<int64_t>(); });
  return all;
}

ExitCode tell(const fs::path& output, Json clips) {
  double sum = 0;
  int64_t good = 0;
  for (Json& clip : clips) {
    clip.erase("index");
    const auto video = clip["video"].get<std::string>();
    if (clip.contains("psnr")) {
      sum += clip["psnr"].get<double>();
      ++good;
      fmt::print("{:8.2f} dB  {}\n", clip["psnr"].get<double>(), video);
    } else {
      fmt::print("  left out  {}: {}\n", video, clip["error"].get<std::string>());
    }
  }
  VALIDATE(good > 0, "none of {} videos could be used (each is named above): check --input", clips.size());
  const double mean = sum / static_cast<double>(good);
  write_results(output, clips, mean);
  fmt::print("{:8.2f} dB  mean of {} clips{}; {}\n", mean, good,
             good < std::ssize(clips) ? fmt::format(", {} left out", std::ssize(clips) - good) : "",
             output.string());
  return ExitCode::done;
}

ExitCode run(Context& context) {
  ModelSection model = context.config.model;
  if (context.options.has("model")) model.path = context.options.text("model");
  const fs::path output = context.options.text("output");
  const std::vector<Source> all = sources(context.options.text("input"), clip_spec(context.config.data));
  if (!context.config.data.buckets.empty())
    fail_usage(
        "reconstruct takes one size, data.frames, data.height and data.width: leave data.buckets away");
  if (fs::exists(output / "reconstruction.json"))
    fail_usage("{}: holds another reconstruction (its clips would mix with these): choose another --output",
               output.string());
  context.session.world().barrier();
  std::error_code code;
  fs::create_directories(output, code);
  if (code) fail_io("{}: cannot make the folder ({})", output.string(), code.message());
  const at::Device device = choose_device(model.device, context.session);
  std::optional<Vae> vae;  // of a rank that has work
  Json mine = Json::array();
  std::vector<WorkUnit> units;
  for (const Source& source : all) units.push_back({source.name, 1});
  run_units(context.session, units, [&](size_t i) {
    if (!vae) vae = load_vae(model, device);
    Json clip{{"index", i}, {"video", all[i].name}};
    try {
      clip.update(reconstruct_clip(*vae, device, all[i], output / output_name(i, all[i])));
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;  // this machine's fault, not the clip's
      clip["error"] = error.what();
    }
    mine.push_back(std::move(clip));
  });
  const Json clips = gather(context.session, mine);
  return context.session.rank() == 0 ? tell(output, clips) : ExitCode::done;
}

}  // namespace

Command reconstruct_command() {
  return {"reconstruct",
          "videos through the VAE and back, with PSNR; sizes from [data]",
          run,
          CommandKind::tool,
          {{"model", "PLACE",
            "instead of model.path: a folder in any layout, or the VAE's own folder or file", false},
           {"input", "PLACE", "a video, a folder of videos, or an annotation listing (.txt, .json)", true},
           {"output", "FOLDER", "for the mp4s, reconstruction.json and reconstruction.csv", true}},
          ""};
}

}  // namespace surgery
