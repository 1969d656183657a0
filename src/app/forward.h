#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "app/command.h"
#include "storage/tensor_store.h"

namespace surgery {

/// One part of a model that `forward` can run alone on tensors, under the reference implementation's names.
struct Component {
  std::string name;  ///< what --component takes
  std::string help;  ///< "INPUTS -> OUTPUTS"
  /// Checks the input (the tensors of --input, empty without it) and loads the part; what it gives runs it,
  /// as often as it is called.
  std::function<std::function<TensorMap()>(const std::filesystem::path& model, const TensorMap& input,
                                           const CommandLine& options)>
      prepare;
  bool needs_model = true;
};

// Each in its own file src/app/forward_NAME.cpp.
std::vector<Component> transformer_components();
std::vector<Component> scheduler_components();
std::vector<Component> vae_components();
std::vector<Component> text_components();

/// A tensor of the input by name; Error{data} that lists what is there when it is not.
const at::Tensor& input_tensor(const TensorMap& input, const std::string& name);
/// The same, and it must be floating point and finite.
const at::Tensor& finite_input(const TensorMap& input, const std::string& name);

at::Device device_option(const CommandLine& options);  ///< --device; Error{usage} when there is none
/// --precision of a part that rounds in one way only: fp32 or bf16.
at::ScalarType precision_option(const CommandLine& options);
/// --stream, for weights of so many bytes.
bool stream_option(const CommandLine& options, double weights);

}  // namespace surgery
