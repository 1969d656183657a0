#include "data/latent_shard.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>

#include "base/errors.h"
#include "base/text.h"
#include "storage/atomic_file.h"
#include "storage/hdf5_file.h"

namespace surgery {

namespace {

constexpr const char* kFormat = "surgery-latents";
constexpr int kVersion = 1;
constexpr int64_t kHashBytes = 16;

/// XXH3-128 of a contiguous tensor's bytes, as 16 numbers.
std::vector<uint8_t> sample_hash(const at::Tensor& tensor) {
  const at::Tensor host = tensor.contiguous();
  const std::string hex =
      hash_bytes({static_cast<const char*>(host.const_data_ptr()), static_cast<size_t>(host.nbytes())});
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < kHashBytes; ++i)
    bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(static_cast<size_t>(2 * i), 2), nullptr, 16)));
  return bytes;
}

at::Tensor offsets_of(const std::vector<std::string>& texts) {
  at::Tensor offsets = at::zeros({static_cast<int64_t>(texts.size()) + 1}, at::kLong);
  auto* values = offsets.data_ptr<int64_t>();
  for (size_t i = 0; i < texts.size(); ++i) values[i + 1] = values[i] + static_cast<int64_t>(texts[i].size());
  return offsets;
}

template <class T>
at::Tensor tensor_of(const std::vector<T>& values, std::vector<int64_t> shape, at::ScalarType type) {
  at::Tensor tensor = at::empty(shape, type);
  std::copy(values.begin(), values.end(), tensor.data_ptr<T>());
  return tensor;
}

}  // namespace

struct LatentShardWriter::State {
  std::filesystem::path path;
  ShardHeader header;
  std::vector<at::Tensor> latents, texts;
  std::vector<std::string> prompts, ids;
  std::vector<double> fps, starts;
  std::vector<int32_t> sizes, crops;
  std::vector<uint8_t> hashes;
};

LatentShardWriter::LatentShardWriter(const std::filesystem::path& path, ShardHeader header)
    : state_(std::make_unique<State>()) {
  EXPECT(!header.space.vae_hash.empty() && !header.space.text_hash.empty());
  EXPECT(!header.space.latents_mean.empty() &&
         header.space.latents_mean.size() == header.space.latents_std.size());
  state_->path = path;
  state_->header = std::move(header);
}

LatentShardWriter::~LatentShardWriter() = default;

int64_t LatentShardWriter::size() const {
  return static_cast<int64_t>(state_->latents.size());
}

void LatentShardWriter::add(const LatentSample& sample) {
  State& s = *state_;
  const LatentSpace& space = s.header.space;
  const at::Tensor latents = sample.latents.detach().to(at::kCPU, at::kBFloat16).contiguous();
  const at::Tensor text = sample.text.detach().to(at::kCPU, at::kBFloat16).contiguous();
  VALIDATE(latents.dim() == 4 && latents.size(0) == static_cast<int64_t>(space.latents_mean.size()),
           "{}: latents of '{}' have shape {}: expected [{}, T, H, W]", s.path.string(), sample.id,
           fmt::join(latents.sizes(), "x"), space.latents_mean.size());
  VALIDATE(s.latents.empty() || latents.sizes() == s.latents[0].sizes(),
           "{}: latents of '{}' have shape {}, those before {} (a shard has one shape): use another shard",
           s.path.string(), sample.id, fmt::join(latents.sizes(), "x"), fmt::join(s.latents[0].sizes(), "x"));
  VALIDATE(text.dim() == 2 && text.size(1) == space.text_dim && text.size(0) >= 1 &&
               text.size(0) <= space.text_length,
           "{}: text rows of '{}' have shape {}: expected [1..{}, {}]", s.path.string(), sample.id,
           fmt::join(text.sizes(), "x"), space.text_length, space.text_dim);
  VALIDATE(at::isfinite(latents).all().item<bool>() && at::isfinite(text).all().item<bool>(),
           "{}: latents or text rows of '{}' are not finite: check the model and the clip", s.path.string(),
           sample.id);
  s.latents.push_back(latents);
  s.texts.push_back(text);
  s.prompts.push_back(sample.prompt);
  s.ids.push_back(sample.id);
  s.fps.push_back(sample.source_fps);
  s.starts.push_back(sample.start_seconds);
  for (const int64_t value : {sample.source_height, sample.source_width})
    s.sizes.push_back(narrow<int32_t>(value));
  for (const int64_t value : {sample.crop.x0, sample.crop.x1, sample.crop.y0, sample.crop.y1})
    s.crops.push_back(narrow<int32_t>(value));
  for (const at::Tensor& part : {latents, text})
    for (const uint8_t byte : sample_hash(part)) s.hashes.push_back(byte);
}

void LatentShardWriter::commit() {
  State& s = *state_;
  const ShardHeader& h = s.header;
  const int64_t n = size();
  Hdf5Writer file(s.path, kFormat, kVersion);
  file.attribute("latent_space", std::string("wan2.1-vae"));
  file.attribute("latent_normalized", int64_t{1});
  file.attribute("samples", n);
  file.attribute("fps", h.fps);
  file.attribute("num_frames", h.frames);
  file.attribute("height", h.height);
  file.attribute("width", h.width);
  file.attribute("text_encoder", std::string("umt5"));
  file.attribute("text_len", h.space.text_length);
  file.attribute("text_dim", h.space.text_dim);
  file.attribute("vae_hash", h.space.vae_hash);
  file.attribute("text_hash", h.space.text_hash);
  file.attribute("source", h.source);
  file.attribute("fingerprint", h.fingerprint);
  file.attribute("creator", std::string("surgery"));
  const auto channels = static_cast<int64_t>(h.space.latents_mean.size());
  file.dataset("latent_mean", tensor_of(h.space.latents_mean, {channels}, at::kDouble));
  file.dataset("latent_std", tensor_of(h.space.latents_std, {channels}, at::kDouble));
  if (n > 0) {
    file.dataset("latents", at::stack(s.latents));
    at::Tensor offsets = at::zeros({n + 1}, at::kLong);
    for (int64_t i = 0; i < n; ++i)
      offsets[i + 1] = offsets[i].item<int64_t>() + s.texts[static_cast<size_t>(i)].size(0);
    file.dataset("text/data", at::cat(s.texts));
    file.dataset("text/offsets", offsets);
    file.text("prompt/bytes", fmt::format("{}", fmt::join(s.prompts, "")));
    file.dataset("prompt/offsets", offsets_of(s.prompts));
    file.text("meta/id/bytes", fmt::format("{}", fmt::join(s.ids, "")));
    file.dataset("meta/id/offsets", offsets_of(s.ids));
    file.dataset("meta/src_fps", tensor_of(s.fps, {n}, at::kDouble));
    file.dataset("meta/start_s", tensor_of(s.starts, {n}, at::kDouble));
    file.dataset("meta/src_size", tensor_of(s.sizes, {n, 2}, at::kInt));
    file.dataset("meta/crop", tensor_of(s.crops, {n, 4}, at::kInt));
    file.dataset("meta/xxh128", tensor_of(s.hashes, {n, 2, kHashBytes}, at::kByte));
  }
  file.commit();
}

struct LatentShard::State {
  std::filesystem::path path;
  ShardHeader header;
  std::unique_ptr<Hdf5Reader> file;
  int64_t samples = 0;
  std::vector<int64_t> shape;
  at::Tensor text_offsets, prompt_offsets, id_offsets, fps, starts, sizes, crops, hashes;
  std::string prompts, ids;

  /// Offsets must rise from 0 to `total`, or a sample would reach into its neighbour.
  at::Tensor offsets(const std::string& name, int64_t total) const {
    const at::Tensor values = part(name, {samples + 1}, at::kLong);
    const auto* v = values.const_data_ptr<int64_t>();
    bool rising = v[0] == 0 && v[samples] == total;
    for (int64_t i = 0; i < samples; ++i) rising = rising && v[i] <= v[i + 1];
    VALIDATE(rising, "{}: {} does not rise from 0 to {}: the shard is damaged, encode it again",
             path.string(), name, total);
    return values;
  }

  at::Tensor part(const std::string& name, const std::vector<int64_t>& expected, at::ScalarType type) const {
    VALIDATE(file->has(name), "{}: lacks {}: not a latent shard of this program, encode it again",
             path.string(), name);
    at::Tensor tensor = file->dataset(name);
    VALIDATE(tensor.sizes().vec() == expected && tensor.scalar_type() == type,
             "{}: {} has shape {} and type {}, expected {} and {}: encode the shard again", path.string(),
             name, fmt::join(tensor.sizes(), "x"), c10::toString(tensor.scalar_type()),
             fmt::join(expected, "x"), c10::toString(type));
    return tensor.contiguous();
  }

  std::vector<double> numbers(const std::string& name) const {
    VALIDATE(file->has(name), "{}: lacks {}: not a latent shard of this program, encode it again",
             path.string(), name);
    const at::Tensor tensor = file->dataset(name).to(at::kDouble).contiguous();
    VALIDATE(tensor.dim() == 1, "{}: {} is no list of numbers: encode the shard again", path.string(), name);
    return {tensor.const_data_ptr<double>(), tensor.const_data_ptr<double>() + tensor.numel()};
  }

  void read_header() {
    ShardHeader& h = header;
    int64_t normalized = 0;
    try {
      normalized = file->attribute_int("latent_normalized");
    } catch (const Error&) {
      fail_data(
          "{}: does not say whether its latents are normalised (latent_normalized; training on the wrong "
          "kind "
          "spoils the model silently): encode it again",
          path.string());
    }
    VALIDATE(normalized == 1,
             "{}: holds latents that are not normalised (latent_normalized is {}): encode it again",
             path.string(), normalized);
    samples = file->attribute_int("samples");
    h.fps = file->attribute_double("fps");
    h.frames = file->attribute_int("num_frames");
    h.height = file->attribute_int("height");
    h.width = file->attribute_int("width");
    h.space.text_length = file->attribute_int("text_len");
    h.space.text_dim = file->attribute_int("text_dim");
    h.space.vae_hash = file->attribute_text("vae_hash");
    h.space.text_hash = file->attribute_text("text_hash");
    h.source = file->attribute_text("source");
    h.fingerprint = file->attribute_text("fingerprint");
    h.space.latents_mean = numbers("latent_mean");
    h.space.latents_std = numbers("latent_std");
    VALIDATE(samples >= 0 && samples < std::numeric_limits<int64_t>::max() && h.space.text_dim > 0 &&
                 h.space.latents_mean.size() == h.space.latents_std.size(),
             "{}: its header contradicts itself: encode it again", path.string());
  }

  void read_index() {
    for (const char* name : {"latents", "text/data", "prompt/bytes", "meta/id/bytes"})
      VALIDATE(file->has(name), "{}: lacks {}: encode it again", path.string(), name);
    shape = file->shape("latents");
    VALIDATE(shape.size() == 5 && shape[0] == samples &&
                 shape[1] == static_cast<int64_t>(header.space.latents_mean.size()),
             "{}: latents have shape {}, expected [{}, {}, T, H, W]: encode it again", path.string(),
             fmt::join(shape, "x"), samples, header.space.latents_mean.size());
    shape.erase(shape.begin());
    const std::vector<int64_t> rows = file->shape("text/data");
    VALIDATE(rows.size() == 2 && rows[1] == header.space.text_dim,
             "{}: text rows have shape {}: encode it again", path.string(), fmt::join(rows, "x"));
    prompts = file->text("prompt/bytes");
    ids = file->text("meta/id/bytes");
    text_offsets = offsets("text/offsets", rows[0]);
    prompt_offsets = offsets("prompt/offsets", static_cast<int64_t>(prompts.size()));
    id_offsets = offsets("meta/id/offsets", static_cast<int64_t>(ids.size()));
    fps = part("meta/src_fps", {samples}, at::kDouble);
    starts = part("meta/start_s", {samples}, at::kDouble);
    sizes = part("meta/src_size", {samples, 2}, at::kInt);
    crops = part("meta/crop", {samples, 4}, at::kInt);
    hashes = part("meta/xxh128", {samples, 2, kHashBytes}, at::kByte);
  }

  void check_hash(const at::Tensor& tensor, int64_t index, int64_t which) const {
    const auto actual = sample_hash(tensor);
    const auto* expected = hashes.const_data_ptr<uint8_t>() + (2 * index + which) * kHashBytes;
    VALIDATE(std::equal(actual.begin(), actual.end(), expected),
             "{}: checksum differs in the {} of sample {} (file damaged): set it aside and encode it again",
             path.string(), which == 0 ? "latents" : "text", index);
  }

  static std::string slice(const std::string& bytes, const at::Tensor& offsets, int64_t i) {
    const auto* v = offsets.const_data_ptr<int64_t>();
    return bytes.substr(static_cast<size_t>(v[i]), static_cast<size_t>(v[i + 1] - v[i]));
  }
};

LatentShard::LatentShard(const std::filesystem::path& path, Verify verify)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->file = std::make_unique<Hdf5Reader>(
      path, kFormat, kVersion,
      verify == Verify::full ? Hdf5Reader::Verify::full : Hdf5Reader::Verify::header);
  state_->read_header();
  if (state_->samples > 0) state_->read_index();
}

LatentShard::~LatentShard() = default;
LatentShard::LatentShard(LatentShard&&) noexcept = default;
const std::filesystem::path& LatentShard::path() const {
  return state_->path;
}
const ShardHeader& LatentShard::header() const {
  return state_->header;
}
int64_t LatentShard::size() const {
  return state_->samples;
}
std::vector<int64_t> LatentShard::latent_shape() const {
  return state_->shape;
}

LatentSample LatentShard::sample(int64_t index) const {
  const State& s = *state_;
  EXPECT(index >= 0 && index < s.samples);
  const auto* rows = s.text_offsets.const_data_ptr<int64_t>();
  const at::Tensor latents = s.file->rows("latents", index, 1)[0];
  const at::Tensor text = s.file->rows("text/data", rows[index], rows[index + 1] - rows[index]);
  s.check_hash(latents, index, 0);
  s.check_hash(text, index, 1);
  LatentSample sample;
  sample.latents = latents.to(at::kFloat);
  sample.text = text.to(at::kFloat);
  sample.prompt = State::slice(s.prompts, s.prompt_offsets, index);
  sample.id = State::slice(s.ids, s.id_offsets, index);
  sample.source_fps = s.fps[index].item<double>();
  sample.start_seconds = s.starts[index].item<double>();
  sample.source_height = s.sizes[index][0].item<int32_t>();
  sample.source_width = s.sizes[index][1].item<int32_t>();
  const at::Tensor crop = s.crops[index];
  sample.crop = {crop[0].item<int32_t>(), crop[1].item<int32_t>(), crop[2].item<int32_t>(),
                 crop[3].item<int32_t>()};
  return sample;
}

void LatentShard::check_space(const LatentSpace& expected) const {
  const LatentSpace& found = state_->header.space;
  const std::string file = state_->path.string();
  VALIDATE(found.vae_hash == expected.vae_hash,
           "{}: encoded with another VAE ({}, the model has {}): encode the clips with this model", file,
           found.vae_hash, expected.vae_hash);
  VALIDATE(
      found.text_hash == expected.text_hash,
      "{}: encoded with another text encoder or tokenizer ({}, the model has {}): encode the clips with this "
      "model",
      file, found.text_hash, expected.text_hash);
  VALIDATE(found == expected, "{}: its latent statistics or text size differ from the model's: encode again",
           file);
}

std::string shard_name(const std::string& name, int64_t index, int64_t count) {
  return fmt::format("{}-{:05d}-of-{:05d}.h5", name, index, count);
}

void require_whole_sets(const std::vector<std::filesystem::path>& shards) {
  std::map<std::pair<std::string, int64_t>, std::map<int64_t, std::filesystem::path>> sets;  // by index
  for (const auto& shard : shards) {
    const std::string name = shard.stem().string();
    const size_t of = name.rfind("-of-"), dash = of == std::string::npos ? of : name.rfind('-', of - 1);
    if (dash == std::string::npos || dash >= of) continue;
    const auto index = parse_number<int64_t>(std::string_view(name).substr(dash + 1, of - dash - 1)),
               count = parse_number<int64_t>(std::string_view(name).substr(of + 4));
    if (index && count) sets[{name.substr(0, dash), *count}].emplace(*index, shard);
  }
  for (const auto& [set, there] : sets)
    VALIDATE(std::ssize(there) == set.second,
             "{}: {} of the {} shards like this one are there (the set is not finished, or a part is "
             "missing): finish it first",
             there.begin()->second.string(), there.size(), set.second);
}

std::filesystem::path shard_rejects(std::filesystem::path shard) {
  return shard.replace_extension(".rejects.txt");
}

std::vector<std::filesystem::path> list_shards(const std::filesystem::path& folder) {
  std::error_code code;
  if (!std::filesystem::is_directory(folder, code))
    fail_io("{}: no such folder of latent shards: encode the clips first", folder.string());
  std::vector<std::filesystem::path> shards;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().extension() == ".h5" &&
        !entry.path().filename().string().starts_with(
            '.'))  // what is being written, or was when a process died
      shards.push_back(entry.path());
  std::sort(shards.begin(), shards.end());
  if (shards.empty()) fail_io("{}: holds no latent shard (*.h5): encode the clips first", folder.string());
  return shards;
}

int64_t shard_rejected(const std::filesystem::path& shard) {
  std::ifstream file(shard_rejects(shard));
  int64_t count = 0;
  for (std::string line; std::getline(file, line);) ++count;
  return count;
}

}  // namespace surgery
