#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "attention/cost_model.h"
#include "recipe/config.h"
#include "recipe/run_status.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace surgery {

/// The model as a plan needs it: configurations, no weights.
struct ModelSizes {
  std::filesystem::path folder;
  TransformerConfig transformer;
  VaeConfig vae;
  TextEncoderConfig text_encoder;
  int64_t text_tokens = 512;  ///< model_max_length of tokenizer/tokenizer_config.json
};
/// Reads the sizes of the model (or of model.config, which may hold config.json files alone): the
/// transformer's, and those of VAE, text encoder and tokenizer where they are there (else Wan2.1's).
/// Error{usage} when neither is set, Error{io} when the transformer's cannot be read, Error{data}.
ModelSizes read_model_sizes(const ModelSection& model);

/// What the plan is made for.
struct PlanMachine {
  int64_t ranks = 1;
  double flops_per_second = 0;  ///< sustained, of one rank
  std::string rate_origin;      ///< "stated", or how it was measured
  double memory_bytes = 0;      ///< of one rank (of its device); 0 = unknown, nothing is refused
  double host_bytes = 0;        ///< of one rank on its host, where it computes on a GPU; 0 = unknown
  double disk_bytes = 0;        ///< free where the run will lie; 0 = unknown
};

/// One named quantity in bytes with what it is made of.
struct PlanTerm {
  std::string name;
  double bytes = 0;
};

struct PlanStage {
  std::string name, unit;                 ///< "trajectories"; what is counted ("prompts")
  int64_t units = 0, parallel = 1;        ///< pieces of work; how many can be made at once at most
  std::optional<StageStatus> found = {};  ///< what is on disk; none where the recipe needs no such stage
  double flops = 0;                       ///< over all ranks
  double seconds = 0, device_hours = 0;
  std::vector<PlanTerm> memory = {};       ///< of one rank (on its device), while the stage runs
  std::vector<PlanTerm> host_memory = {};  ///< of one rank on its host, beside its GPU
  std::vector<PlanTerm> disk = {};         ///< what it leaves
  std::vector<int64_t> clip = {};          ///< frames, height, width of what it works on; empty: on no clips
  double memory_bytes() const;
  double host_memory_bytes() const;
  double disk_bytes() const;
  double left() const;  ///< share that is yet to be made, told by `found`; 1 where it was not looked for
};

struct Plan {
  PlanMachine machine;
  ModelSizes model;
  std::vector<PlanStage> stages;
  std::optional<std::string> missing = {};  ///< what is not on disk, in words; empty when nothing is missing
  std::vector<std::string> notes;           ///< what was assumed or is not known
  std::vector<std::string> faults;          ///< what cannot fit, with the largest terms named
  double flops() const;
  double disk_bytes() const;
  double device_hours() const;
  double seconds() const;
  /// Without what exists here and in run.base.
  double seconds_left() const, device_hours_left() const, disk_bytes_left() const;
};

/// Costs of the whole recipe by formula (recipe/plan_stages.cpp states each). Error{usage} for sizes that do
/// not fit.
Plan make_plan(const Config& config, const ModelSizes& model, const PlanMachine& machine);

/// What of it the run directory holds already (recipe/run_status.h); what is complete is refused no more.
void count_existing(Plan& plan, const Config& config);

/// "5.3 GiB".
std::string bytes_text(double bytes);
std::string plan_text(const Plan& plan);
nlohmann::ordered_json plan_json(const Plan& plan);

CostGeometry cost_geometry(const TransformerConfig& transformer, int64_t text_tokens, int64_t frames,
                           int64_t height, int64_t width);

}  // namespace surgery
