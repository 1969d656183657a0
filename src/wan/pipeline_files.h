#pragma once
#include <filesystem>

namespace surgery {

/// model_index.json and scheduler/scheduler_config.json of diffusers' WanPipeline, as Wan2.1's text-to-video
/// models have them (UniPC, flow shift 3). Error{io}.
void write_pipeline_files(const std::filesystem::path& folder);

}  // namespace surgery
