#include "app/checkpoint_options.h"

#include "base/text.h"

namespace surgery {

at::ScalarType dtype_option(const CommandLine& options, const std::string& name,
                            const std::string& otherwise) {
  const std::string dtype = options.text(name, otherwise);
  if (dtype == "fp32") return at::kFloat;
  if (dtype == "bf16") return at::kBFloat16;
  if (dtype == "fp16") return at::kHalf;
  fail_usage("--{} = {} must be one of fp32, bf16, fp16", name, dtype);
}

/// "5GB", "200MB", "64KB" or bytes; decimal units, as the hub counts.
uint64_t shard_size_option(const CommandLine& options) {
  const std::string text = options.text("shard-size", "5GB");
  uint64_t unit = 1;
  std::string number = text;
  for (const auto& [suffix, bytes] : {std::pair("KB", 1'000), {"MB", 1'000'000}, {"GB", 1'000'000'000}})
    if (text.ends_with(suffix)) {
      unit = static_cast<uint64_t>(bytes);
      number = text.substr(0, text.size() - 2);
    }
  const auto count = parse_number<uint64_t>(number);
  if (!count || *count == 0 || *count > UINT64_MAX / unit)
    fail_usage("--shard-size = {} must be a size as 5GB, 200MB or a number of bytes", text);
  return *count * unit;
}

std::filesystem::path output_option(const CommandLine& options) {
  const std::filesystem::path output = options.text("output");
  return output.has_filename() ? output : output.parent_path();
}

void check_output_is_new(const std::filesystem::path& output, OutputKind kind) {
  namespace fs = std::filesystem;
  if (!fs::exists(output)) return;
  if (kind == OutputKind::folder && fs::is_directory(output) && fs::is_empty(output)) return;
  fail_usage("{} exists already (it would be overwritten): give another --output, or remove it",
             output.string());
}

SaveAs original_vae() {
  return {.naming = Naming::wan, .stem = "Wan2.1_VAE", .config_inside = true};
}

SaveAs original_text_encoder(const std::string& dtype_name) {
  return {.naming = Naming::wan, .stem = "models_t5_umt5-xxl-enc-" + dtype_name, .config_inside = true};
}

}  // namespace surgery
