#include "recipe/finetune_batches.h"

#include <algorithm>
#include <numeric>

#include "base/errors.h"
#include "base/log.h"
#include "recipe/text_cache.h"
#include "wan/flow.h"

namespace surgery {
namespace {

/// The clips of validation, ascending: `count` of all, whatever they are.
std::vector<int64_t> withheld_samples(RandomKey key, int64_t size, int64_t count) {
  if (count >= size)
    fail_usage(
        "finetune.validation_clips = {} leaves nothing of the {} clips to train on: withhold fewer, or give "
        "more clips (data.count, data.shards)",
        count, size);
  std::vector<int64_t> samples(static_cast<size_t>(size));
  std::iota(samples.begin(), samples.end(), int64_t{0});
  RandomStream draws(key);
  for (int64_t i = 0; i < count; ++i)
    std::swap(samples[static_cast<size_t>(i)], samples[static_cast<size_t>(i + draws.below(size - i))]);
  samples.resize(static_cast<size_t>(count));
  std::ranges::sort(samples);
  return samples;
}

/// The runs without the (ascending) samples.
std::vector<SampleRun> without(const std::vector<SampleRun>& runs, const std::vector<int64_t>& withheld) {
  std::vector<SampleRun> left;
  for (const SampleRun& run : runs) {
    SampleRun part = run;
    const int64_t end = run.first + run.count;
    const auto add_up_to = [&](int64_t last) {
      part.count = last - part.first;
      if (part.count > 0) left.push_back(part);
      part.first = last + 1;
    };
    for (auto it = std::ranges::lower_bound(withheld, run.first); it != withheld.end() && *it < end; ++it)
      add_up_to(*it);
    add_up_to(end);
  }
  return left;
}

ClipBatch joined(const std::vector<ClipBatch>& clips) {
  const auto all = [&](at::Tensor ClipBatch::*member) {
    std::vector<at::Tensor> parts;
    for (const ClipBatch& clip : clips) parts.push_back(clip.*member);
    return at::cat(parts);
  };
  ClipBatch batch = clips.front();
  for (const auto member :
       {&ClipBatch::input, &ClipBatch::target, &ClipBatch::timestep, &ClipBatch::text, &ClipBatch::weight})
    batch.*member = all(member);
  return batch;
}

}  // namespace

FinetuneBatches::FinetuneBatches(Recipe& recipe, const LatentSet& data)
    : recipe_(recipe),
      f_(recipe.config.finetune),
      data_(data),
      withheld_(withheld_samples(recipe.key("validation"), data.size(), f_.validation_clips)),
      order_(recipe.key("finetune-order"), without(data.runs(), withheld_), data.weights(), f_.global_batch),
      density_{f_.noise_levels, f_.logit_mean, f_.logit_std, f_.mode_scale},
      weighting_(f_.loss_weighting, f_.shift),
      negative_(text_rows(recipe, "")),
      text_length_(recipe.text_length()) {
  const int64_t count = std::ssize(withheld_), world = recipe.session.size();
  for (int64_t first = 0; first < count; first += world) {
    const int64_t clip = std::min(first + recipe.session.rank(), count - 1);
    held_.push_back(read(withheld_[static_cast<size_t>(clip)]));
  }
}

ClipBatch FinetuneBatches::noised(const LatentSample& sample, const at::Tensor& text, RandomKey key,
                                  double level) const {
  const at::Tensor noise = random_normal(key.with("noise"), sample.latents.sizes());
  const double sigma = shifted_level(level, f_.shift);
  const FlowSample flow = flow_sample(sample.latents, noise, sigma);
  return {.input = flow.input.unsqueeze(0),
          .target = flow.target.unsqueeze(0),
          .timestep = at::tensor({flow.timestep}, at::kFloat),
          .text = pad_text(text, text_length_),
          .weight = at::tensor({weighting_.at(sigma)}, at::kFloat)};
}

std::vector<ClipBatch> FinetuneBatches::of_step(int64_t step) {
  const SampleOrder::Batch all = order_.at(step);
  const auto world = static_cast<size_t>(recipe_.session.size());
  std::vector<Place> mine;
  for (auto i = static_cast<size_t>(recipe_.session.rank()); i < all.samples.size(); i += world) {
    // Where it stands in the endless order of all steps names its noise.
    const auto position = static_cast<uint64_t>(step * f_.global_batch) + i;
    mine.push_back({recipe_.key("finetune").with(position), all.samples[i]});
  }
  std::vector<ClipBatch> batches;
  for (size_t at = 0; at < mine.size(); at += static_cast<size_t>(f_.micro_batch)) {
    const size_t end = std::min(mine.size(), at + static_cast<size_t>(f_.micro_batch));
    batches.push_back(training(std::span(mine).subspan(at, end - at)));
  }
  return batches;
}

LatentSample FinetuneBatches::read(int64_t index) {
  const auto run = std::ranges::find_if(
      data_.runs(), [&](const SampleRun& r) { return index >= r.first && index < r.first + r.count; });
  for (int64_t next = 0; next < run->count; ++next) {
    const int64_t sample = run->first + (index - run->first + next) % run->count;
    if (damaged_.contains(sample) || (next > 0 && std::ranges::binary_search(withheld_, sample))) continue;
    try {
      return data_.sample(sample);
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      damaged_.insert(sample);
      const int64_t limit = recipe_.config.data.damaged;
      if (std::ssize(damaged_) > limit)
        fail_data("{} (the set has more than data.damaged = {} damaged samples): encode it again",
                  error.what(), limit);
      log_warning("finetune: a damaged sample is passed over ({} of at most {}): {}", damaged_.size(), limit,
                  error.what());
    }
  }
  fail_data("no sample of the {} around number {} is sound: encode the set again", run->count, index);
}

ClipBatch FinetuneBatches::training(std::span<const Place> places) {
  std::vector<ClipBatch> clips;
  for (const auto& [key, index] : places) {
    const LatentSample sample = read(index);
    RandomStream draws(key.with("draws"));
    const double level = draw_level(density_, draws);
    const bool drop = draws.uniform() < f_.text_dropout;
    clips.push_back(noised(sample, drop ? negative_ : sample.text, key, level));
  }
  return joined(clips);
}

/// The levels of the clips divide [0, 1] evenly: few clips already show the whole range.
ClipBatch FinetuneBatches::validation(int64_t index) const {
  const int64_t count = std::ssize(withheld_),
                number = index * recipe_.session.size() + recipe_.session.rank();
  const int64_t clip = std::min(number, count - 1);
  const LatentSample& sample = held_[static_cast<size_t>(index)];
  const double level = (static_cast<double>(clip) + 0.5) / static_cast<double>(count);
  ClipBatch batch =
      noised(sample, sample.text, recipe_.key("validation").with(static_cast<uint64_t>(clip)), level);
  batch.weight.fill_(number < count ? 1 : 0);
  return batch;
}

}  // namespace surgery
