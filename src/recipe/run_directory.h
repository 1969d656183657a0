#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace surgery {

/// Where everything of one run lies (design: files). Paths only; nothing is made by asking.
class RunDirectory {
 public:
  explicit RunDirectory(std::filesystem::path root, std::filesystem::path base = {})
      : root_(std::move(root)), base_(std::move(base)) {}
  const std::filesystem::path& root() const { return root_; }
  /// The run that finished artifacts may be taken from; empty = none.
  const std::filesystem::path& base() const { return base_; }
  /// Where the base has what lies at `path` in this run; empty without a base, or for a path outside the run.
  std::filesystem::path in_base(const std::filesystem::path& path) const;
  /// Error{usage} where a base is named that is no other run's folder.
  void check_base() const;

  /// Error{usage} where the STOP file is there.
  void check_not_stopped() const;

  std::filesystem::path config() const { return root_ / "config.cfg"; }
  std::filesystem::path cache() const { return root_ / "cache"; }
  std::filesystem::path trajectory(int64_t prompt) const;  ///< cache/trajectory-000042.h5
  std::filesystem::path text() const { return root_ / "text"; }
  std::filesystem::path text_rows(const std::string& hash) const { return text() / (hash + ".h5"); }
  std::filesystem::path distill() const { return root_ / "distill"; }
  std::filesystem::path block(int64_t block) const;  ///< distill/block-07.h5
  std::filesystem::path tables_csv() const { return root_ / "tables.csv"; }
  std::filesystem::path tables_h5() const { return root_ / "tables.h5"; }
  std::filesystem::path selection() const { return root_ / "selection.json"; }
  std::filesystem::path data() const { return root_ / "data"; }
  std::filesystem::path probes() const { return data() / "probes.tsv"; }  ///< of videos, see VideoProbes
  std::filesystem::path latents() const { return data() / "latents"; }
  std::filesystem::path finetune() const { return root_ / "finetune"; }
  std::filesystem::path model() const { return root_ / "model"; }
  /// What the folder was made from.
  std::filesystem::path model_stamp() const { return model() / "surgery.json"; }
  std::filesystem::path videos() const { return root_ / "videos"; }
  std::filesystem::path samples(const std::string& variant) const { return root_ / "samples" / variant; }
  std::filesystem::path synthetic() const { return root_ / "synthetic"; }
  std::filesystem::path evaluation() const { return root_ / "evaluation.json"; }
  std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }
  /// What a rank has to tell of its own steps: events/rank-0007.jsonl.
  std::filesystem::path events() const { return root_ / "events"; }
  std::filesystem::path events(int rank) const;
  /// Files that a person makes: stop cleanly and stay so while it is there; commit the training state now.
  std::filesystem::path stop_file() const { return root_ / "STOP"; }
  std::filesystem::path save_file() const { return root_ / "SAVE"; }
  std::filesystem::path ledger() const { return root_ / "ledger.jsonl"; }
  std::filesystem::path report() const { return root_ / "report.html"; }

 private:
  std::filesystem::path root_, base_;
};

}  // namespace surgery
