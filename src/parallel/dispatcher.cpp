#include "parallel/dispatcher.h"

#include <algorithm>
#include <numeric>

namespace surgery {

Dispatcher::Dispatcher(const std::vector<WorkUnit>& units, int ranks, int attempts)
    : units_(units),
      attempts_(attempts),
      waiting_(units.size()),
      order_(units.size()),
      tries_(units.size(), std::vector<int>(static_cast<size_t>(ranks), 0)),
      present_(static_cast<size_t>(ranks), false) {
  EXPECT(attempts >= 1);
  EXPECT(ranks >= 1);
  std::iota(waiting_.begin(), waiting_.end(), size_t{0});
  std::stable_sort(waiting_.begin(), waiting_.end(),
                   [&](size_t a, size_t b) { return units_[a].weight > units_[b].weight; });
  for (size_t i = 0; i < waiting_.size(); ++i) order_[waiting_[i]] = i;
}

bool Dispatcher::may_take(int rank, size_t unit) const {
  const auto& tries = tries_[unit];
  return tries[static_cast<size_t>(rank)] == *std::min_element(tries.begin(), tries.end());
}

std::optional<Dispatcher::Answer> Dispatcher::next(int rank) {
  present_[static_cast<size_t>(rank)] = true;
  if (verdict_) return verdict_;
  if (!failure_ && !stopping_) {
    const auto found =
        std::find_if(waiting_.begin(), waiting_.end(), [&](size_t unit) { return may_take(rank, unit); });
    if (found != waiting_.end()) {
      Answer answer;
      answer.unit = *found;
      waiting_.erase(found);
      ++in_work_;
      return answer;
    }
  }
  if (in_work_ > 0 || !std::all_of(present_.begin(), present_.end(), [](bool come) { return come; }))
    return std::nullopt;
  if (failure_) return verdict_ = failure_;
  Answer end;
  if (waiting_.empty()) {
    end.kind = Answer::Kind::finished;
    return verdict_ = end;
  }
  if (!stopping_) return std::nullopt;  // what waits is for another rank to try
  end.kind = Answer::Kind::stopped;
  end.left = waiting_;
  std::ranges::sort(end.left);
  return verdict_ = end;
}

void Dispatcher::made(size_t) {
  EXPECT(in_work_ > 0);
  --in_work_;
}

void Dispatcher::given_up(size_t unit) {
  EXPECT(in_work_ > 0);
  --in_work_;
  waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), unit,
                                   [&](size_t a, size_t b) { return order_[a] < order_[b]; }),
                  unit);
}

int Dispatcher::tries(size_t unit) const {
  return std::accumulate(tries_[unit].begin(), tries_[unit].end(), 0);
}

bool Dispatcher::failed(int rank, const std::string& where, size_t unit, ExitCode code,
                        const std::string& what) {
  ++tries_[unit][static_cast<size_t>(rank)];
  given_up(unit);
  if (tries(unit) < attempts_) return true;
  fail(code, fmt::format("{} failed {} times, last on {}: {} (the units that were in work are kept): "
                         "remove the cause and start again, only what is missing will be made",
                         units_[unit].name, tries(unit), where, what));
  return false;
}

void Dispatcher::fail(ExitCode code, const std::string& message) {
  if (failure_) return;
  failure_ = Answer{Answer::Kind::failed, 0, code, message, {}};
}

}  // namespace surgery
