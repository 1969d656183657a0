#pragma once
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "parallel/communicator.h"

namespace surgery {

struct AdamWOptions {
  double learning_rate = 1e-5;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  /// Where masters and moments are kept and updated, in fp32, whatever the parameters' type; none = with the
  /// parameters. Then an update moves the gradients there and the new parameters back.
  std::optional<at::Device> state_device = {};
};

/// AdamW (Loshchilov and Hutter 2019; torch.optim.AdamW's arithmetic) in fp32. Parameters of another type
/// (bf16) get fp32 masters that carry the training; the parameter is the master, rounded: an update of 1e-5
/// of a weight would vanish in bf16. Works on any list of tensors, so also on a rank's pieces of flat
/// buckets.
class AdamW {
 public:
  using Named = std::vector<std::pair<std::string, at::Tensor>>;

  /// Tensors are held, not copied. Throws Error{internal} for an empty list or a name given twice.
  AdamW(Named parameters, AdamWOptions options);

  /// A parameter's master starts from this value instead of from the rounded parameter.
  void set_master(const std::string& name, const at::Tensor& exact);

  /// One update from fp32 gradients, in the order of the parameters, at `learning_rate`. Gradients are not
  /// changed.
  void step(const std::vector<at::Tensor>& gradients, double learning_rate);
  void step(const std::vector<at::Tensor>& gradients) { step(gradients, options_.learning_rate); }
  int64_t steps() const { return steps_; }

  /// What a checkpoint has to hold: `step` (int64, [1]) and, for every parameter, `exp_avg.NAME`,
  /// `exp_avg_sq.NAME` and, where it has one, `master.NAME`, all fp32. The tensors are the optimizer's own,
  /// not copies.
  std::map<std::string, at::Tensor> state() const;
  /// Takes a state back, exactly; parameters with masters are set from them. Throws Error{data}, and changes
  /// nothing, when a tensor is missing, foreign, or of another shape or type.
  void load(const std::map<std::string, at::Tensor>& state);

 private:
  struct Slot {
    std::string name;
    at::Tensor parameter, master;  // the same tensor when the parameter is fp32 and the state with it
    at::Tensor exp_avg, exp_avg_sq;
    bool has_master() const { return !master.is_same(parameter); }
  };
  void update(std::span<const Slot> slots, const std::vector<at::Tensor>& gradients,
              double learning_rate) const;

  AdamWOptions options_;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
};

/// Scales fp32 gradients in place so that their joint 2-norm is at most `limit` (0 = never), and returns the
/// norm before, an fp64 scalar on their device (no synchronisation). Squares are summed in fp32 within 1024
/// neighbours, whose norm must stay below 1.8e19, and in fp64 over those. Gradients
/// that are not finite stay so: look at the norm before stepping. With `shards` (collective) the tensors are
/// this rank's part of the gradients, and the norm is that of all.
at::Tensor clip_gradients(const std::vector<at::Tensor>& gradients, double limit,
                          Communicator* shards = nullptr);

}  // namespace surgery
