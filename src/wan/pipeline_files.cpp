#include "wan/pipeline_files.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "storage/atomic_file.h"

namespace surgery {
namespace {

using Json = nlohmann::ordered_json;

Json component(const char* library, const char* name) {
  return Json::array({library, name});
}

}  // namespace

void write_pipeline_files(const std::filesystem::path& folder) {
  const Json scheduler{{"_class_name", "UniPCMultistepScheduler"},
                       {"_diffusers_version", "0.33.0"},
                       {"beta_end", 0.02},
                       {"beta_schedule", "linear"},
                       {"beta_start", 0.0001},
                       {"disable_corrector", Json::array()},
                       {"dynamic_thresholding_ratio", 0.995},
                       {"final_sigmas_type", "zero"},
                       {"flow_shift", 3.0},
                       {"lower_order_final", true},
                       {"num_train_timesteps", 1000},
                       {"predict_x0", true},
                       {"prediction_type", "flow_prediction"},
                       {"sample_max_value", 1.0},
                       {"solver_order", 2},
                       {"solver_p", nullptr},
                       {"solver_type", "bh2"},
                       {"steps_offset", 0},
                       {"thresholding", false},
                       {"timestep_spacing", "linspace"},
                       {"trained_betas", nullptr},
                       {"use_beta_sigmas", false},
                       {"use_exponential_sigmas", false},
                       {"use_flow_sigmas", true},
                       {"use_karras_sigmas", false}};
  std::error_code error;
  std::filesystem::create_directories(folder / "scheduler", error);
  if (error) fail_io("{}: cannot be made: {}", (folder / "scheduler").string(), error.message());
  write_file(folder / "scheduler" / "scheduler_config.json", scheduler.dump(2) + "\n");
  const Json index{{"_class_name", "WanPipeline"},
                   {"_diffusers_version", "0.33.0"},
                   {"scheduler", component("diffusers", "UniPCMultistepScheduler")},
                   {"text_encoder", component("transformers", "UMT5EncoderModel")},
                   {"tokenizer", component("transformers", "T5TokenizerFast")},
                   {"transformer", component("diffusers", "WanTransformer3DModel")},
                   {"vae", component("diffusers", "AutoencoderKLWan")}};
  write_file(folder / "model_index.json", index.dump(2) + "\n");
}

}  // namespace surgery
