#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/adamw.h"
#include "parallel/bucket_layout.h"
#include "parallel/communicator.h"

namespace surgery {

/// Data-parallel AdamW over any number of ranks: gradients averaged, clipped by their joint norm, and
/// parameters, masters and moments held as Sharding says. Losses agree between the shardings to rounding, and
/// are the same bits for the same sharding and number of ranks.
///
///     engine.zero();
///     for (m...) { engine.begin_micro_step(m == last); loss(m).backward(); }
///     if (std::isfinite(engine.finish(clip))) engine.update(rate);
class DataParallel {
 public:
  struct Options {
    Sharding sharding = Sharding::none;
    AdamWOptions adamw = {};
    /// Of a running average of the parameters, fp32, that is kept beside them; 0 = none. After n updates it
    /// is at most (1 + n) / (10 + n): a young average follows quickly.
    double average_decay = 0;
  };
  /// Over the ranks of two communicators that belong to nobody else (Session::duplicate): gradients travel in
  /// one, parameters in the other, each in an order of its own. `groups`: leaves that require grad, fp32 or
  /// bf16, in the order of the forward pass; they become views of flat memory. They and the masters of bf16
  /// ones start from `values`, asked for a group after the other; without it from what they hold, else they
  /// need no memory yet.
  DataParallel(std::unique_ptr<Communicator> gradients, std::unique_ptr<Communicator> parameters,
               const std::vector<ParameterGroup>& groups, const Options& options,
               const ReadParameter& values = {});
  ~DataParallel();

  void zero();  ///< before the first micro-step of a step
  void begin_micro_step(bool last);
  /// Collective, after the last backward: waits for the gradients and scales them so that their joint norm is
  /// at most `clip` (0 = never). Returns the norm before; where it is not finite nothing is scaled.
  double finish(double clip);
  /// The first parameter, in the groups' order, whose gradient is not finite in this rank's part; else empty.
  std::string first_bad() const;
  /// Collective: one update; the new parameters are there when a group is needed.
  void update(double learning_rate);
  int64_t steps() const;  ///< updates done

  /// Around the computation of a group, in forward and again in backward; collective in the same order on all
  /// ranks. Without sharding they do nothing.
  void need(size_t group);
  void prefetch(size_t group);
  void release(size_t group);
  void need_all();     ///< every group, for a forward that tells of none
  void release_all();  ///< after a forward without backward

  /// Waits until the last update has reached every rank: before the engine is let go.
  void settle();
  size_t reductions_begun() const;  ///< of this backward's buckets

  /// What a checkpoint holds: this rank's part [size / ranks] of every bucket in fp32, `parameter` (the
  /// master where there is one), `exp_avg`, `exp_avg_sq` and, where one is kept, `average`; named
  /// bucket-000.parameter, ... Views, not copies.
  std::map<std::string, at::Tensor> state_piece() const;
  const BucketLayout& layout() const;
  /// Elements [begin, begin + count) of a parameter's `parameter`, `exp_avg`, ..., fp32.
  using ReadState = std::function<at::Tensor(const std::string& what, const std::string& parameter,
                                             int64_t begin, int64_t count)>;
  /// Collective: takes a state back, exactly, whatever sharding and number of ranks wrote it.
  void load(const ReadState& read, int64_t steps);

  double exposed_seconds() const;        ///< waiting for other ranks, summed since construction
  double communication_seconds() const;  ///< collectives in flight, summed
  double sent_bytes() const;             ///< gradients and parameters, to other ranks, summed

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
