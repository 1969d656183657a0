#include "recipe/streaming.h"

#include <ATen/DeviceAccelerator.h>
#include <unistd.h>

#include <algorithm>

#include "recipe/component_cost.h"

namespace surgery {

double resident_weights(const TransformerConfig& transformer, const TextEncoderConfig& text_encoder,
                        double bytes_per_element) {
  return bytes_per_element *
         static_cast<double>(std::max(parameter_count(transformer), parameter_count(text_encoder)));
}

bool streams_blocks(const std::string& stream, double weights, double memory) {
  if (stream != "auto") return stream == "yes";
  return memory > 0 && weights > kResidentShare * memory;
}

double host_memory() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double rank_memory(const Config& config, at::Device device, int64_t ranks_of_host) {
  if (config.run.memory_limit_gib > 0) return config.run.memory_limit_gib * 1024 * 1024 * 1024;
  if (device.is_cpu()) return host_memory() / static_cast<double>(ranks_of_host);
  return static_cast<double>(at::accelerator::getMemoryInfo(device.index()).second);
}

}  // namespace surgery
