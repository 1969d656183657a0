#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/strict_json.h"
#include "wan/vae.h"
#include "wan/vae_layers.h"

namespace surgery {
namespace {

using Json = nlohmann::ordered_json;
using Shapes = std::map<std::string, std::vector<int64_t>>;

/// What diffusers takes where a file leaves the statistics out: Wan2.1's own.
const std::vector<double> kWanMean{-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                                   0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
const std::vector<double> kWanStd{2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};

/// The library would cut off fractions, and what has no place in 64 bits is undefined.
bool all_whole(const Json& value) {
  return value.is_array() ? std::ranges::all_of(value, all_whole) : value.is_number_integer();
}

template <class T>
T read(const Json& json, const char* key, const T& missing, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return missing;
  constexpr bool whole = std::is_same_v<T, int64_t> || std::is_same_v<T, std::vector<int64_t>>;
  try {
    if (!whole || all_whole(*found)) return found->get<T>();
  } catch (const Json::exception&) {
  }
  fail_data(
      "{}: \"{}\" is {} (not of the kind this key holds): give a diffusers AutoencoderKLWan config.json",
      where, key, found->dump());
}

/// Keys that diffusers knows and Wan2.1's VAE does not use: anything but the neutral value changes the
/// function.
void refuse(const Json& json, const char* key, const Json& neutral, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || *found == neutral) return;
  fail_data("{}: \"{}\" is {} (this is not Wan2.1's VAE): only {} is supported", where, key, found->dump(),
            neutral.dump());
}

void conv_shapes(Shapes& shapes, const std::string& name, std::vector<int64_t> weight) {
  shapes[name + ".bias"] = {weight.front()};
  shapes[name + ".weight"] = std::move(weight);
}

void res_block_shapes(Shapes& shapes, const std::string& name, int64_t in, int64_t out) {
  shapes[name + ".norm1.gamma"] = {in, 1, 1, 1};
  shapes[name + ".norm2.gamma"] = {out, 1, 1, 1};
  conv_shapes(shapes, name + ".conv1", {out, in, 3, 3, 3});
  conv_shapes(shapes, name + ".conv2", {out, out, 3, 3, 3});
  if (in != out) conv_shapes(shapes, name + ".conv_shortcut", {out, in, 1, 1, 1});
}

void ends_shapes(Shapes& shapes, const std::string& name, int64_t in, int64_t first, int64_t middle,
                 int64_t last, int64_t out) {
  conv_shapes(shapes, name + ".conv_in", {first, in, 3, 3, 3});
  for (const char* i : {"0", "1"}) {
    res_block_shapes(shapes, name + ".mid_block.resnets." + i, middle, middle);
  }
  const auto attention = name + ".mid_block.attentions.0";
  shapes[attention + ".norm.gamma"] = {middle, 1, 1};
  conv_shapes(shapes, attention + ".to_qkv", {3 * middle, middle, 1, 1});
  conv_shapes(shapes, attention + ".proj", {middle, middle, 1, 1});
  shapes[name + ".norm_out.gamma"] = {last, 1, 1, 1};
  conv_shapes(shapes, name + ".conv_out", {out, last, 3, 3, 3});
}

}  // namespace

VaeConfig VaeConfig::from_json(const std::string& text, const std::string& where) {
  const Json json = parse_strict_json(text, where);
  VALIDATE(json.is_object(), "{}: not a JSON object: give a diffusers AutoencoderKLWan config.json", where);
  const auto name = read<std::string>(json, "_class_name", "AutoencoderKLWan", where);
  VALIDATE(name == "AutoencoderKLWan",
           "{}: describes a {} (not Wan's VAE): give the folder of an AutoencoderKLWan", where, name);
  refuse(json, "attn_scales", Json::array(), where);
  refuse(json, "is_residual", false, where);
  refuse(json, "patch_size", nullptr, where);
  refuse(json, "in_channels", 3, where);
  refuse(json, "out_channels", 3, where);

  VaeConfig config;
  config.base_dim = read(json, "base_dim", config.base_dim, where);
  config.decoder_base_dim = read(json, "decoder_base_dim", config.decoder_base_dim, where);
  config.z_dim = read(json, "z_dim", config.z_dim, where);
  config.num_res_blocks = read(json, "num_res_blocks", config.num_res_blocks, where);
  config.dim_mult = read(json, "dim_mult", config.dim_mult, where);
  config.temperal_downsample = read(json, "temperal_downsample", config.temperal_downsample, where);
  config.latents_mean = read(json, "latents_mean", kWanMean, where);
  config.latents_std = read(json, "latents_std", kWanStd, where);
  config.check(where);
  return config;
}

std::string VaeConfig::to_json() const {
  Json json;
  json["_class_name"] = "AutoencoderKLWan";
  json["attn_scales"] = Json::array();
  json["base_dim"] = base_dim;
  json["decoder_base_dim"] = decoder_base_dim > 0 ? Json(decoder_base_dim) : Json(nullptr);
  json["dim_mult"] = dim_mult;
  json["dropout"] = 0.0;
  json["in_channels"] = 3;
  json["is_residual"] = false;
  json["latents_mean"] = latents_mean;
  json["latents_std"] = latents_std;
  json["num_res_blocks"] = num_res_blocks;
  json["out_channels"] = 3;
  json["patch_size"] = nullptr;
  json["scale_factor_spatial"] = space_stride();
  json["scale_factor_temporal"] = time_stride();
  json["temperal_downsample"] = temperal_downsample;
  json["z_dim"] = z_dim;
  return json.dump(2) + "\n";
}

void VaeConfig::check(const std::string& where) const {
  // The limits are far above any VAE of this family; they keep a damaged file from asking for absurd memory.
  const auto within = [&](const char* key, int64_t value, int64_t least, int64_t most) {
    VALIDATE(value >= least && value <= most,
             "{}: \"{}\" is {} (must be {} to {}): correct the configuration", where, key, value, least,
             most);
  };
  within("base_dim", base_dim, 1, 4096);
  within("decoder_base_dim", decoder_base_dim, 0, 4096);
  within("z_dim", z_dim, 1, 1024);
  within("num_res_blocks", num_res_blocks, 1, 64);
  within("dim_mult (count)", static_cast<int64_t>(dim_mult.size()), 1, 8);
  for (const int64_t m : dim_mult) within("dim_mult", m, 1, 64);
  VALIDATE(
      temperal_downsample.size() + 1 == dim_mult.size(),
      "{}: \"temperal_downsample\" has {} values and \"dim_mult\" {} (one step between two levels): give {}",
      where, temperal_downsample.size(), dim_mult.size(), dim_mult.size() - 1);
  const VaeLevels levels(*this);
  for (size_t i = 0; i + 1 < levels.decoder_out.size(); ++i) {
    VALIDATE(
        levels.decoder_out[i] % 2 == 0,
        "{}: a decoder level has {} channels (resampling halves them): choose base_dim and dim_mult even",
        where, levels.decoder_out[i]);
  }
  const auto statistics = [&](const char* key, const std::vector<double>& values, bool positive) {
    if (values.empty()) return;
    VALIDATE(static_cast<int64_t>(values.size()) == z_dim,
             "{}: \"{}\" has {} values (one per latent channel is needed): give {}, as z_dim says", where,
             key, values.size(), z_dim);
    for (const double value : values) {
      VALIDATE(std::isfinite(value) && (!positive || value > 0),
               "{}: \"{}\" holds {} (latents could not be normalised): give finite{} numbers", where, key,
               value, positive ? ", positive" : "");
    }
  };
  statistics("latents_mean", latents_mean, false);
  statistics("latents_std", latents_std, true);
}

void VaeConfig::set_wan_statistics(const std::string& where) {
  VALIDATE(z_dim == static_cast<int64_t>(kWanMean.size()),
           "{}: {} latent channels, Wan2.1's VAE has {} (their mean and deviation are told by a config.json "
           "alone): give the folder of a VAE with its config.json",
           where, z_dim, kWanMean.size());
  latents_mean = kWanMean;
  latents_std = kWanStd;
}

int64_t VaeConfig::time_stride() const {
  return int64_t{1} << std::count(temperal_downsample.begin(), temperal_downsample.end(), true);
}

int64_t VaeConfig::space_stride() const {
  return int64_t{1} << (dim_mult.size() - 1);
}

std::map<std::string, std::vector<int64_t>> vae_parameter_shapes(const VaeConfig& config) {
  const VaeLevels levels(config);
  const size_t count = config.dim_mult.size();
  const int64_t z = config.z_dim;
  Shapes shapes;

  ends_shapes(shapes, "encoder", 3, levels.encoder.front(), levels.encoder.back(), levels.encoder.back(),
              2 * z);
  int64_t block = 0;
  for (size_t level = 0; level < count; ++level) {
    const int64_t out = levels.encoder[level + 1];
    for (int64_t i = 0; i < config.num_res_blocks; ++i) {
      res_block_shapes(shapes, fmt::format("encoder.down_blocks.{}", block++),
                       i == 0 ? levels.encoder[level] : out, out);
    }
    if (level + 1 == count) continue;
    const auto name = fmt::format("encoder.down_blocks.{}", block++);
    conv_shapes(shapes, name + ".resample.1", {out, out, 3, 3});
    if (config.temperal_downsample[level]) conv_shapes(shapes, name + ".time_conv", {out, out, 3, 1, 1});
  }

  const int64_t widest = levels.decoder_in.front();
  ends_shapes(shapes, "decoder", z, widest, widest, levels.decoder_out.back(), 3);
  for (size_t level = 0; level < count; ++level) {
    const auto name = fmt::format("decoder.up_blocks.{}", level);
    const int64_t out = levels.decoder_out[level];
    for (int64_t i = 0; i <= config.num_res_blocks; ++i) {
      res_block_shapes(shapes, fmt::format("{}.resnets.{}", name, i), i == 0 ? levels.decoder_in[level] : out,
                       out);
    }
    if (level + 1 == count) continue;
    conv_shapes(shapes, name + ".upsamplers.0.resample.1", {out / 2, out, 3, 3});
    if (config.temperal_downsample[count - 2 - level]) {
      conv_shapes(shapes, name + ".upsamplers.0.time_conv", {2 * out, out, 3, 1, 1});
    }
  }
  conv_shapes(shapes, "quant_conv", {2 * z, 2 * z, 1, 1, 1});
  conv_shapes(shapes, "post_quant_conv", {z, z, 1, 1, 1});
  return shapes;
}

}  // namespace surgery
