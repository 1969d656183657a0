#include "base/errors.h"
#include "base/log.h"
#include "storage/atomic_file.h"
#include "wan/checkpoint.h"
#include "wan/diffusers_loader.h"
#include "wan/pages_ahead.h"
#include "wan/parameter_check.h"
#include "wan/sizes_from_tensors.h"
#include "wan/tensor_names.h"
#include "wan/transformer.h"

namespace surgery {
namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

void add_linear(Shapes& shapes, const std::string& name, int64_t out, int64_t in) {
  shapes[name + ".weight"] = {out, in};
  shapes[name + ".bias"] = {out};
}

void add_attention(Shapes& shapes, const std::string& name, int64_t dim) {
  for (const char* projection : {".to_q", ".to_k", ".to_v", ".to_out.0"})
    add_linear(shapes, name + projection, dim, dim);
  shapes[name + ".norm_q.weight"] = {dim};
  shapes[name + ".norm_k.weight"] = {dim};
}

std::string block_prefix(int64_t block) {
  return fmt::format("blocks.{}.", block);
}

std::string phi_prefix(int64_t block, const char* which) {
  return block_prefix(block) + "attn1." + which + ".";
}

bool is_phi(const std::string& name) {
  return name.find(".attn1.phi_q.") != std::string::npos || name.find(".attn1.phi_k.") != std::string::npos;
}

/// What a streamed model does not hold; phi is small, and a student's is not in the teacher's file.
bool is_streamed(const std::string& name) {
  return name.starts_with("blocks.") && !is_phi(name);
}
/// A parameter in the model's dtype that is never streamed.
constexpr const char* kAlwaysResident = "patch_embedding.weight";

void add_phi(Shapes& shapes, const std::string& prefix, const FeatureMapConfig& phi) {
  for (int64_t l = 0; l < phi.layers; ++l) {
    const int64_t in = l == 0 ? phi.head_dim : phi.features();
    shapes[fmt::format("{}{}.weight", prefix, l)] = {phi.heads, phi.features(), in};
    shapes[fmt::format("{}{}.bias", prefix, l)] = {phi.heads, phi.features()};
  }
}

bool starts_with(const std::string& name, const char* prefix) {
  return name.rfind(prefix, 0) == 0;
}
}  // namespace

std::map<std::string, std::vector<int64_t>> transformer_parameter_shapes(const TransformerConfig& config) {
  Shapes shapes;
  const int64_t dim = config.dim();
  const auto& patch = config.patch_size;
  shapes["patch_embedding.weight"] = {dim, config.in_channels, patch[0], patch[1], patch[2]};
  shapes["patch_embedding.bias"] = {dim};
  add_linear(shapes, "condition_embedder.text_embedder.linear_1", dim, config.text_dim);
  add_linear(shapes, "condition_embedder.text_embedder.linear_2", dim, dim);
  add_linear(shapes, "condition_embedder.time_embedder.linear_1", dim, config.freq_dim);
  add_linear(shapes, "condition_embedder.time_embedder.linear_2", dim, dim);
  add_linear(shapes, "condition_embedder.time_proj", 6 * dim, dim);
  add_linear(shapes, "proj_out", config.out_channels * patch[0] * patch[1] * patch[2], dim);
  shapes["scale_shift_table"] = {1, 2, dim};
  for (int64_t block = 0; block < config.num_layers; ++block) {
    const std::string prefix = block_prefix(block);
    shapes[prefix + "scale_shift_table"] = {1, 6, dim};
    add_attention(shapes, prefix + "attn1", dim);
    add_attention(shapes, prefix + "attn2", dim);
    if (config.cross_attn_norm) {
      shapes[prefix + "norm2.weight"] = {dim};
      shapes[prefix + "norm2.bias"] = {dim};
    }
    add_linear(shapes, prefix + "ffn.net.0.proj", config.ffn_dim, dim);
    add_linear(shapes, prefix + "ffn.net.2", dim, config.ffn_dim);
    if (config.hybrid && !config.hybrid->rates.at(static_cast<size_t>(block)).is_full())
      for (const char* which : {"phi_q", "phi_k"})
        add_phi(shapes, phi_prefix(block, which), config.feature_map());
  }
  return shapes;
}

Transformer::Transformer(TransformerConfig config, TensorMap parameters)
    : config_(std::move(config)), parameters_(std::move(parameters)) {
  check_parameters("transformer", transformer_parameter_shapes(config_), parameters_);
}

namespace {
TransformerConfig config_of(const PartFiles& files, const TensorMap& tensors) {
  return part_config<TransformerConfig>(
      files, [&](const std::string& where) { return transformer_sizes(tensors, where); });
}
}  // namespace

Transformer Transformer::load(const std::filesystem::path& where) {
  const PartFiles files = require_part(ModelPart::transformer, where);
  if (log_rank() == 0 && files.config.empty() && stored_config(files).empty())
    log_warning("{}: comes without a configuration, so its heads are taken for Wan2.1's, of 128 channels",
                files.place().string());
  TensorMap tensors = read_part(files);
  TransformerConfig config = config_of(files, tensors);
  TensorMap parameters = to_our_names(files, std::move(tensors), transformer_names(config),
                                      transformer_parameter_shapes(config));
  return Transformer(std::move(config), std::move(parameters));
}

TransformerConfig Transformer::read_config(const std::filesystem::path& where) {
  return read_part_config<TransformerConfig>(ModelPart::transformer, where, config_of);
}

void save_transformer(const TransformerConfig& config, const LazyTensors& parameters,
                      const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as) {
  const auto dtype_of = [dtype](const std::string& name) { return Precision(dtype).of_parameter(name); };
  const std::string ours = config.to_json();
  const PartContent content{parameters, dtype_of, ours,
                            as.naming == Naming::wan ? config.to_wan_json(as.text_length) : ours};
  save_part(ModelPart::transformer, transformer_names(config), content, folder, as);
  if (config.hybrid && as.naming == Naming::diffusers)
    write_file(folder / kDiffusersLoaderName, kDiffusersLoader);
}

void Transformer::save(const std::filesystem::path& folder, at::ScalarType dtype, const SaveAs& as) const {
  save_transformer(config_, lazy(parameters_), folder, dtype, as);
}

std::vector<ParameterGroup> Transformer::parameter_groups(
    const std::function<bool(const std::string& name)>& trained) {
  set_requires_grad(true);
  if (trained)
    for (auto& [name, tensor] : parameters_) tensor.requires_grad_(trained(name));
  std::vector<ParameterGroup> groups(static_cast<size_t>(config_.num_layers) + 1);
  for (int64_t block = 0; block < config_.num_layers; ++block) {
    const std::string prefix = block_prefix(block);
    for (auto it = parameters_.lower_bound(prefix);
         it != parameters_.end() && starts_with(it->first, prefix.c_str()); ++it)
      if (it->second.requires_grad()) groups[static_cast<size_t>(block)].push_back(*it);
  }
  for (const auto& [name, tensor] : parameters_)
    if (!starts_with(name, "blocks.") && tensor.requires_grad()) groups.back().emplace_back(name, tensor);
  return groups;
}

bool Transformer::trains_block(int64_t block) const {
  const std::string prefix = block_prefix(block);
  for (auto it = parameters_.lower_bound(prefix);
       it != parameters_.end() && starts_with(it->first, prefix.c_str()); ++it)
    if (it->second.requires_grad()) return true;
  return false;
}

void Transformer::set_requires_grad(bool value) {
  EXPECT(!value || !streams());
  for (auto& [name, tensor] : parameters_) {
    if (!tensor.is_leaf()) tensor = tensor.detach();
    tensor.requires_grad_(value);
  }
}

void Transformer::to(at::Device device, Precision precision) {
  rounding_ = precision.rounding;
  const auto stays = [&](const std::string& name) { return streams() && is_streamed(name); };
  std::vector<at::Tensor> coming;
  for (const auto& [name, tensor] : parameters_)
    if (!stays(name)) coming.push_back(tensor);
  {
    PagesAhead pages(std::move(coming));
    for (auto& [name, tensor] : parameters_) {
      if (stays(name)) continue;
      const bool learns = tensor.requires_grad();
      const at::Tensor before = std::exchange(tensor, copy_of(tensor, device, precision.of_parameter(name)));
      tensor.requires_grad_(learns);
      pages.passed(before);
    }
  }
  if (streams()) stream_to(device, precision);
}

TensorMap Transformer::begin_training(at::Device device, Precision precision,
                                      const std::function<bool(const std::string& name)>& trained,
                                      const TensorMap& frozen) {
  EXPECT(streams());
  stream_.reset();
  rounding_ = precision.rounding;
  TensorMap before = parameters_;
  for (auto& [name, tensor] : parameters_) {
    const at::ScalarType dtype = precision.of_parameter(name);
    if (trained && !trained(name)) {
      const auto there = frozen.find(name);
      const bool shared = there != frozen.end() && there->second.device() == device &&
                          there->second.scalar_type() == dtype && there->second.sizes() == tensor.sizes();
      tensor = (shared ? there->second : copy_of(tensor, device, dtype)).requires_grad_(false);
      continue;
    }
    tensor = at::empty(tensor.sizes(), at::TensorOptions(device).dtype(dtype));
    tensor.storage().unsafeGetStorageImpl()->reset();
    tensor.requires_grad_(true);
  }
  return before;
}

at::Device Transformer::device() const {
  return parameters_.at(kAlwaysResident).device();
}
at::ScalarType Transformer::dtype() const {
  return parameters_.at(kAlwaysResident).scalar_type();
}

void Transformer::stream_to(at::Device device, Precision precision) {
  stream_ = std::make_shared<BlockStream>(
      tensors_by_block(parameters_, "blocks.", config_.num_layers, is_streamed), device,
      [precision](const std::string& name) { return precision.of_parameter(name); });
}

void Transformer::stream() {
  for (const auto& [name, tensor] : parameters_) EXPECT(!tensor.requires_grad());
  stream_to(device(), {dtype(), rounding_});
}

void Transformer::keep_blocks() {
  if (!streams()) return;
  stream_.reset();
  to(device(), {dtype(), rounding_});
}

Transformer Transformer::clone() const {
  Transformer result(*this);
  for (auto& [name, tensor] : result.parameters_) {
    if (streams() && is_streamed(name)) continue;
    const bool learns = tensor.requires_grad();
    tensor = tensor.detach().clone();
    tensor.requires_grad_(learns);
  }
  return result;
}

void Transformer::make_hybrid(const HybridSettings& settings,
                              const std::function<std::pair<FeatureMap, FeatureMap>(int64_t block)>& phi) {
  VALIDATE(static_cast<int64_t>(settings.rates.size()) == config_.num_layers,
           "{} rates for {} blocks (every block needs one): give one rate per block", settings.rates.size(),
           config_.num_layers);
  std::erase_if(parameters_, [](const auto& item) { return is_phi(item.first); });
  config_.hybrid = settings;
  const auto options = parameters_.at(kAlwaysResident).options().requires_grad(false);
  for (int64_t block = 0; block < config_.num_layers; ++block) {
    if (settings.rates[static_cast<size_t>(block)].is_full()) continue;
    const auto [query, key] = phi(block);
    for (const auto& [which, map] : {std::pair("phi_q", &query), std::pair("phi_k", &key)})
      for (size_t l = 0; l < map->weight.size(); ++l) {
        const std::string prefix = fmt::format("{}{}", phi_prefix(block, which), l);
        // Copies, so that the transformer and the distillation that made them never share memory.
        parameters_[prefix + ".weight"] = map->weight[l].detach().to(options, false, true);
        parameters_[prefix + ".bias"] = map->bias[l].detach().to(options, false, true);
      }
  }
  check_parameters("transformer", transformer_parameter_shapes(config_), parameters_);
}

namespace {
FeatureMap read_phi(const TransformerConfig& config, const TensorMap& parameters, int64_t block,
                    const char* which) {
  FeatureMap phi;
  phi.config = config.feature_map();
  for (int64_t l = 0; l < phi.config.layers; ++l) {
    const std::string prefix = fmt::format("{}{}", phi_prefix(block, which), l);
    phi.weight.push_back(parameters.at(prefix + ".weight"));
    phi.bias.push_back(parameters.at(prefix + ".bias"));
  }
  return phi;
}
}  // namespace

FeatureMap Transformer::phi_q(int64_t block) const {
  return read_phi(config_, parameters_, block, "phi_q");
}
FeatureMap Transformer::phi_k(int64_t block) const {
  return read_phi(config_, parameters_, block, "phi_k");
}

}  // namespace surgery
