#include "recipe/streaming.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>

#include "base/host_memory.h"
#include "recipe/component_cost.h"

namespace surgery {

double resident_weights(const ModelSizes& sizes, at::ScalarType transformer, at::ScalarType text_encoder) {
  const auto bytes = [](int64_t parameters, at::ScalarType dtype) {
    return static_cast<double>(parameters) * static_cast<double>(c10::elementSize(dtype));
  };
  return std::max(bytes(parameter_count(sizes.transformer), transformer),
                  bytes(parameter_count(sizes.text_encoder), text_encoder));
}

bool streams_blocks(const std::string& stream, double weights, double memory) {
  if (stream != "auto") return stream == "yes";
  return memory > 0 && weights > kResidentShare * memory;
}

double rank_memory(const Config& config, at::Device device, int64_t ranks_of_host) {
  if (config.run.memory_limit_gib > 0) return config.run.memory_limit_gib * 1024 * 1024 * 1024;
  if (device.is_cpu()) return host_memory() / static_cast<double>(ranks_of_host);
  return static_cast<double>(at::accelerator::getMemoryInfo(device.index()).second);
}

}  // namespace surgery
