#pragma once
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace surgery {

/// Consecutive samples of one set and one shape.
struct SampleRun {
  int64_t set = 0, shape = 0;  ///< numbers from 0
  int64_t first = 0, count = 0;
};

/// Which samples every step of training takes: a function of the key and the step alone, so of no number of
/// ranks, and a run that is continued goes on where it stopped.
///
/// A batch is of one shape. The samples of a shape are walked in shuffled epochs: every one once, then all of
/// them in another order. A batch may begin in one epoch and end in the next, so a remainder that does not
/// fill a batch waits for the next epoch and nothing is left out. The batches that become full while all
/// samples are walked once (by shape, as many as its samples fill) are shuffled among themselves.
///
/// Without weights the sets are one. With weights, each set walks epochs of its own, every sample of a batch
/// is drawn from set k with probability weight[k] / sum, and a set's shapes keep the shares they have in it.
class SampleOrder {
 public:
  struct Batch {
    int64_t shape = 0;
    std::vector<int64_t> samples;
  };

  /// `weights`: one for every set, or none. Runs that hold nothing are ignored; a set without samples has no
  /// weight.
  SampleOrder(RandomKey key, const std::vector<SampleRun>& runs, const std::vector<double>& weights,
              int64_t batch);
  Batch at(int64_t step);

 private:
  /// Some samples in endless shuffled epochs.
  class Walk {
   public:
    Walk(RandomKey key, std::vector<int64_t> samples) : key_(key), samples_(std::move(samples)) {}
    int64_t size() const { return static_cast<int64_t>(samples_.size()); }
    int64_t at(int64_t position);

   private:
    RandomKey key_;
    std::vector<int64_t> samples_, order_;
    int64_t epoch_ = -1;
  };
  /// The samples of one shape, a walk a set (or one of all sets).
  struct Stream {
    RandomKey key;
    std::vector<Walk> walks = {};
    std::vector<double> reach = {};   ///< cumulative probabilities of the walks
    double samples = 0;               ///< that one epoch of all shapes takes from here
    int64_t drawn = 0;                ///< positions whose walk is known
    std::vector<int64_t> taken = {};  ///< of every walk, by these
  };
  void add_stream(int64_t shape, const std::vector<SampleRun>& runs, const std::vector<double>& share,
                  double total);
  int64_t sample(Stream& stream, int64_t position);
  int64_t batches(const Stream& stream, int64_t epochs) const;
  int64_t batches(int64_t epochs) const;
  void open_epoch(int64_t step);

  RandomKey key_;
  int64_t batch_;
  std::vector<Stream> streams_;  // by shape
  int64_t epoch_ = -1, epoch_begin_ = 0;
  std::vector<int64_t> shapes_;  // of the epoch's batches
};

}  // namespace surgery
