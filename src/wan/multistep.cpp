#include "wan/multistep.h"

#include <cmath>
#include <limits>

#include "base/errors.h"

namespace surgery {
namespace {

/// alpha and half the log signal-to-noise ratio of a flow's level: infinite at sigma 0, minus infinite at 1.
double alpha(double sigma) {
  return 1 - sigma;
}
double lambda(double sigma) {
  return std::log(alpha(sigma)) - std::log(sigma);
}

at::Tensor predicted_x0(const at::Tensor& x, const at::Tensor& velocity, double sigma) {
  return x.to(at::kFloat) - velocity.to(at::kFloat) * sigma;
}

class UniPC final : public Sampler {
 public:
  explicit UniPC(const Schedule& schedule) : sigmas_(schedule.sigmas) {}

  at::Tensor step(int64_t i, const at::Tensor& x, const at::Tensor& velocity) override {
    const int64_t steps = static_cast<int64_t>(sigmas_.size()) - 1;
    EXPECT(i == next_ && i < steps);
    ++next_;
    const at::Tensor model = predicted_x0(x, velocity, sigma(i));
    // The model's answer at the predicted x also tells how good the prediction was; x0 itself is not asked
    // again.
    const at::Tensor corrected = i > 0 ? correct(i, model) : x.to(at::kFloat);
    before_last_ = last_;
    last_ = model;
    state_ = corrected;
    order_ = std::min<int64_t>({2, steps - i, i + 1});
    return predict(i);
  }

 private:
  double sigma(int64_t i) const { return sigmas_[static_cast<size_t>(i)]; }

  /// x at level `to` when x0 were constant since level `from`.
  at::Tensor first_order(int64_t from, int64_t to, double growth) const {
    return state_ * (sigma(to) / sigma(from)) - last_ * (alpha(sigma(to)) * growth);
  }

  at::Tensor correct(int64_t i, const at::Tensor& model) const {
    const double h = lambda(sigma(i)) - lambda(sigma(i - 1)), growth = std::expm1(-h);
    const double scale = alpha(sigma(i)) * growth;
    const at::Tensor base = first_order(i - 1, i, growth), change = model - last_;
    if (order_ == 1) return base - change * (0.5 * scale);
    const double ratio = (lambda(sigma(i - 2)) - lambda(sigma(i - 1))) / h;
    const double phi1 = growth / -h - 1, b1 = phi1 / growth, b2 = 2 * (phi1 / -h - 0.5) / growth;
    const double rho0 = (b1 - b2) / (1 - ratio), rho1 = b1 - rho0;
    return base - (before_last_ - last_) * (scale * rho0 / ratio) - change * (scale * rho1);
  }

  at::Tensor predict(int64_t i) const {
    if (sigma(i + 1) == 0) return last_;
    const double h = lambda(sigma(i + 1)) - lambda(sigma(i)), growth = std::expm1(-h);
    const at::Tensor base = first_order(i, i + 1, growth);
    if (order_ == 1) return base;
    const double ratio = (lambda(sigma(i - 1)) - lambda(sigma(i))) / h;
    return base - (before_last_ - last_) * (alpha(sigma(i + 1)) * growth * 0.5 / ratio);
  }

  std::vector<double> sigmas_;
  at::Tensor last_, before_last_;  ///< predicted x0 of the last two steps
  at::Tensor state_;               ///< x before the last prediction, corrected
  int64_t order_ = 1;              ///< of the last prediction
  int64_t next_ = 0;
};

class DpmSolver final : public Sampler {
 public:
  explicit DpmSolver(const Schedule& schedule) : sigmas_(schedule.sigmas) {}

  at::Tensor step(int64_t i, const at::Tensor& x, const at::Tensor& velocity) override {
    const size_t now = static_cast<size_t>(i);
    EXPECT(i == next_ && now + 1 < sigmas_.size());
    ++next_;
    const double sigma = sigmas_[now], target = sigmas_[now + 1];
    const at::Tensor model = predicted_x0(x, velocity, sigma), previous = last_;
    last_ = model;
    if (target == 0) return model;
    const double h = lambda(target) - lambda(sigma);
    at::Tensor direction = model;
    // A first level of exactly 1 lies infinitely far back: its correction is zero.
    if (i > 0 && sigmas_[now - 1] < 1) {
      const double ratio = (lambda(sigma) - lambda(sigmas_[now - 1])) / h;
      direction = model + (model - previous) * (0.5 / ratio);
    }
    return x.to(at::kFloat) * (target / sigma) - direction * (alpha(target) * std::expm1(-h));
  }

 private:
  std::vector<double> sigmas_;
  at::Tensor last_;
  int64_t next_ = 0;
};

}  // namespace

std::unique_ptr<Sampler> make_unipc(const Schedule& schedule) {
  return std::make_unique<UniPC>(schedule);
}

std::unique_ptr<Sampler> make_dpmpp_2m(const Schedule& schedule) {
  return std::make_unique<DpmSolver>(schedule);
}

}  // namespace surgery
