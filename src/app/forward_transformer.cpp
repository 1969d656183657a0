#include "app/forward.h"
#include "recipe/component_cost.h"
#include "wan/transformer.h"

namespace surgery {

// The diffusion transformer, teacher or hybrid: each block's attention at its own rate.
std::vector<Component> transformer_components() {
  return {{"transformer",
           "hidden_states [B,C,T,H,W], timestep [B], encoder_hidden_states [B,L,text_dim] -> sample",
           [](const std::filesystem::path& folder, const TensorMap& input, const CommandLine& options) {
             const auto& hidden_states = finite_input(input, "hidden_states");
             const auto& text = finite_input(input, "encoder_hidden_states");
             const auto& timestep = input_tensor(input, "timestep");  // integers are as good here
             const auto model = std::make_shared<Transformer>(Transformer::load(folder));
             const Precision precision = parse_precision(options.text("precision", "fp32"));
             const auto bytes = static_cast<double>(c10::elementSize(precision.dtype));
             if (stream_option(options, bytes * static_cast<double>(parameter_count(model->config()))))
               model->stream();
             model->to(device_option(options), precision);
             return [=]() -> TensorMap {
               return {{"sample", model->forward(hidden_states, timestep, text)}};
             };
           }}};
}

}  // namespace surgery
