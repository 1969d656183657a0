#include "recipe/block_file.h"

#include "base/errors.h"
#include "storage/hdf5_file.h"

namespace surgery {
namespace {

constexpr const char* kFormat = "surgery-block";
constexpr int kVersion = 1;

std::vector<double> to_vector(const at::Tensor& t) {
  const at::Tensor c = t.contiguous();
  return {c.data_ptr<double>(), c.data_ptr<double>() + c.numel()};
}

}  // namespace

const RateState& BlockState::at(Rate wanted) const {
  for (const RateState& state : rates)
    if (state.rate == wanted) return state;
  fail_data("block {}: rate {} was not distilled: add it to distill.rates", block, wanted.name());
}

int64_t feature_map_flat_size(const FeatureMapConfig& config) {
  const int64_t out = config.features();
  int64_t size = 0;
  for (int64_t l = 0; l < config.layers; ++l)
    size += config.heads * out * ((l == 0 ? config.head_dim : out) + 1);
  return 2 * size;
}

std::pair<FeatureMap, FeatureMap> unflatten(const FeatureMapConfig& config, const at::Tensor& flat) {
  const int64_t out = config.features();
  int64_t at = 0;
  const auto take = [&](at::IntArrayRef shape) {
    const int64_t n = c10::multiply_integers(shape);
    at::Tensor part = flat.narrow(0, at, n).view(shape);
    at += n;
    return part;
  };
  std::pair<FeatureMap, FeatureMap> maps;
  for (FeatureMap* map : {&maps.first, &maps.second}) {
    map->config = config;
    for (int64_t l = 0; l < config.layers; ++l) {
      map->weight.push_back(take({config.heads, out, l == 0 ? config.head_dim : out}));
      map->bias.push_back(take({config.heads, out}));
    }
  }
  EXPECT(at == flat.numel());
  return maps;
}

at::Tensor flatten(const FeatureMap& phi_q, const FeatureMap& phi_k) {
  std::vector<at::Tensor> parts;
  for (const FeatureMap* map : {&phi_q, &phi_k})
    for (size_t l = 0; l < map->weight.size(); ++l) {
      parts.push_back(map->weight[l].reshape(-1));
      parts.push_back(map->bias[l].reshape(-1));
    }
  return at::cat(parts);
}

void write_block(const std::filesystem::path& path, const BlockState& state) {
  Hdf5Writer file(path, kFormat, kVersion);
  file.attribute("fingerprint", state.fingerprint);
  file.attribute("block", state.block);
  file.attribute("cursor", state.cursor);
  file.attribute("done", static_cast<int64_t>(state.done));
  std::string rates;
  for (const RateState& rate : state.rates) rates += (rates.empty() ? "" : ",") + rate.rate.name();
  file.attribute("rates", rates);
  file.dataset("teacher_scale", at::tensor(state.teacher_scale, at::kDouble));
  for (const RateState& rate : state.rates) {
    const std::string group = "rate-" + rate.rate.name() + "/";
    file.dataset(group + "parameters", rate.parameters.detach().cpu());
    file.dataset(group + "exp_avg", rate.exp_avg.cpu());
    file.dataset(group + "exp_avg_sq", rate.exp_avg_sq.cpu());
    file.dataset(group + "step", at::full({1}, rate.step, at::kLong));
    file.dataset(group + "losses", at::tensor(rate.losses, at::kDouble));
    file.dataset(group + "held_out", at::tensor(rate.held_out, at::kDouble));
    file.dataset(group + "smallest_normalizer", at::full({1}, rate.smallest_normalizer, at::kDouble));
  }
  file.commit();
}

BlockState read_block(const std::filesystem::path& path) {
  const Hdf5Reader file(path, kFormat, kVersion);
  BlockState state;
  state.fingerprint = file.attribute_text("fingerprint");
  state.block = file.attribute_int("block");
  state.cursor = file.attribute_int("cursor");
  state.done = file.attribute_int("done") != 0;
  state.teacher_scale = to_vector(file.dataset("teacher_scale"));
  for (const Rate rate : parse_rates(file.attribute_text("rates"))) {
    const std::string group = "rate-" + rate.name() + "/";
    RateState r;
    r.rate = rate;
    r.parameters = file.dataset(group + "parameters");
    r.exp_avg = file.dataset(group + "exp_avg");
    r.exp_avg_sq = file.dataset(group + "exp_avg_sq");
    r.step = file.dataset(group + "step").item<int64_t>();
    r.losses = to_vector(file.dataset(group + "losses"));
    r.held_out = to_vector(file.dataset(group + "held_out"));
    r.smallest_normalizer = file.dataset(group + "smallest_normalizer").item<double>();
    VALIDATE(r.exp_avg.numel() == r.parameters.numel() && r.exp_avg_sq.numel() == r.parameters.numel(),
             "{}: optimizer state of rate {} does not fit its parameters (damaged)", path.string(),
             rate.name());
    state.rates.push_back(std::move(r));
  }
  return state;
}

bool block_is_done(const std::filesystem::path& path) {
  return Hdf5Reader(path, kFormat, kVersion, Hdf5Reader::Verify::header).attribute_int("done") != 0;
}

}  // namespace surgery
