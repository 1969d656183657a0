#pragma once
#include <string>
#include <vector>

#include "attention/rate.h"
#include "wan/transformer.h"

namespace surgery {

/// Which of the student's parameters finetuning trains; the others stay what they are. A list, separated by
/// commas, of
///   all               every parameter
///   hybrid-attention  the self-attention of the hybrid blocks: projections, norms and feature maps
///   PATTERN           names of this shape, with * and ? as in a shell: "blocks.1?.ffn.*", "*.phi_k.*"
class TrainedSubset {
 public:
  /// `rates` by block. Error{usage} for an empty part.
  TrainedSubset(const std::string& text, const std::vector<Rate>& rates);
  bool contains(const std::string& name) const;
  /// Error{usage} naming a part that none of the names belongs to.
  void check(const std::vector<std::string>& names) const;

 private:
  bool matches(const std::string& part, const std::string& name) const;

  std::vector<std::string> parts_;
  std::vector<std::string> hybrid_;  // prefixes of names
};

/// Error{usage} where a part of finetune.train names no parameter of any student of this teacher.
void check_trained(const std::string& train, TransformerConfig teacher);

}  // namespace surgery
