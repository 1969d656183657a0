#pragma once
#include <map>
#include <string>

#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

/// One component's tensor names in both layouts, a bijection. Tensors are equal in both: nothing is
/// transposed, split or reordered.
class TensorNames {
 public:
  /// Error{internal} when either name is there already.
  void add(const std::string& ours, const std::string& wan);
  const std::map<std::string, std::string>& to_wan() const { return to_wan_; }    ///< ours -> Wan's
  const std::map<std::string, std::string>& to_ours() const { return to_ours_; }  ///< Wan's -> ours

 private:
  std::map<std::string, std::string> to_wan_, to_ours_;
};

// Every tensor of a configuration. Sources: Wan2.1's wan/modules/{model,t5,vae}.py and diffusers'
// scripts/convert_wan_to_diffusers.py.
TensorNames transformer_names(const TransformerConfig& config);  ///< phi of hybrid blocks included
TensorNames vae_names(const VaeConfig& config);
TensorNames text_encoder_names(const TextEncoderConfig& config);

}  // namespace surgery
