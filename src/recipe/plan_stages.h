#pragma once
#include "recipe/plan.h"

namespace surgery {

/// Formulas of single stages; memory in bytes of one rank.
class StagePlanner {
 public:
  StagePlanner(const Config& config, const ModelSizes& model, const PlanMachine& machine,
               std::vector<std::string>& notes);

  PlanStage trajectories() const;
  PlanStage distill() const;
  PlanStage encode() const;
  PlanStage finetune() const;
  PlanStage model() const;
  PlanStage generate() const;
  PlanStage evaluate() const;
  /// A stage whose cost does not count: one file, made in seconds.
  PlanStage file(const std::string& name) const;

 private:
  /// Of the clips of one section of the configuration.
  template <class Section>
  CostGeometry geometry(const Section& s) const {
    return cost_geometry(model_.transformer, model_.text_tokens, s.frames, s.height, s.width);
  }
  void decide_streaming(double memory);
  double teacher_bytes(const std::string& precision) const;  // its weights, as they are held
  PlanTerm teacher() const;
  PlanTerm vae() const;
  PlanTerm vae_features(double bytes) const;
  PlanTerm pixels(int64_t frames, int64_t height, int64_t width) const;
  PlanTerm text_encoder() const;
  std::vector<PlanTerm> after_text(std::vector<PlanTerm> terms) const;
  PlanTerm student_weights(const std::string& precision) const;
  double student_flops(const CostGeometry& g) const;
  double forward_work(const CostGeometry& g, int64_t batch, double bytes) const;
  int64_t student_parameters() const;
  int64_t trained_parameters() const;  // of finetune.train
  double outside_share() const;

  const Config& config_;
  const ModelSizes& model_;
  int64_t ranks_;
  bool streamed_ = false;  // blocks of transformer and text encoder
  std::string precision_;  // of the transformer, where it is not trained
  at::ScalarType text_precision_;
  std::vector<std::string>& notes_;
  FeatureMapConfig phi_;
  std::vector<Rate> rates_;
  int64_t clips_generated_ = 0, clips_ = 0, converted_ = 0;  // clips generated: of each model
  int64_t checkpoints_ = 0, students_ = 0;                   // of finetuning; models beside the teacher
  std::optional<Rate> budget_rate_;
  double budget_share_ = 1;
};

/// Every stage in the data's order. Appends what was assumed to `notes`.
std::vector<PlanStage> plan_stages(const Config& config, const ModelSizes& model, const PlanMachine& machine,
                                   std::vector<std::string>& notes);

/// What of the plan that is left to make exceeds its machine: the largest term, and options with which the
/// stage would fit.
std::vector<std::string> plan_faults(const Plan& plan, const Config& config);

}  // namespace surgery
