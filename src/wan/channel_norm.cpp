#include "wan/channel_norm.h"

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace surgery {
namespace {

constexpr double kSmallestNorm = 1e-12;  // as torch.nn.functional.normalize
constexpr int64_t kBlock = 2048;  // pixels per unit of work; fixed, so that sums do not depend on the threads
constexpr int64_t kLanes = 8;

/// Sum of a_i * b_i, in lanes that the compiler can keep in vector registers.
template <class T>
at::opmath_type<T> dot(const T* a, const T* b, int64_t count) {
  using Wide = at::opmath_type<T>;
  Wide lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] += static_cast<Wide>(a[i + lane]) * static_cast<Wide>(b[i + lane]);
  }
  Wide sum = 0;
  for (; i < count; ++i) sum += static_cast<Wide>(a[i]) * static_cast<Wide>(b[i]);
  for (const Wide lane : lanes) sum += lane;
  return sum;
}

template <class T>
at::opmath_type<T> inverse_norm(const T* x, int64_t channels) {
  using Wide = at::opmath_type<T>;
  return Wide{1} / std::max(std::sqrt(dot(x, x, channels)), static_cast<Wide>(kSmallestNorm));
}

/// y = x / ||x|| * gain for rows of `channels` values.
template <class T>
void forward_rows(const T* x, const at::opmath_type<T>* gain, T* y, int64_t rows, int64_t channels) {
  using Wide = at::opmath_type<T>;
  for (int64_t row = 0; row < rows; ++row, x += channels, y += channels) {
    const Wide inverse = inverse_norm(x, channels);
    for (int64_t c = 0; c < channels; ++c) y[c] = static_cast<T>(static_cast<Wide>(x[c]) * inverse * gain[c]);
  }
}

/// x and y channels last; gain in x's arithmetic (fp32 for bf16).
void normalize_into(const at::Tensor& y, const at::Tensor& x, const at::Tensor& gain) {
  const int64_t channels = x.size(1), rows = x.numel() / channels;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "channel_norm", [&] {
    const auto* from = x.const_data_ptr<scalar_t>();
    const auto* by = gain.const_data_ptr<at::opmath_type<scalar_t>>();
    auto* to = y.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows, kBlock, [&](int64_t begin, int64_t end) {
      forward_rows(from + begin * channels, by, to + begin * channels, end - begin, channels);
    });
  });
}

/// Whether normalize_into knows the tensor's device and type.
bool has_kernel(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return x.is_cpu() && x.numel() > 0 && (type == at::kFloat || type == at::kDouble || type == at::kBFloat16);
}

/// sqrt(C) * gamma in the arithmetic of normalize_into.
at::Tensor gain_of(const at::Tensor& gamma, const at::Tensor& x) {
  const auto wide = x.element_size() < 4 ? at::kFloat : x.scalar_type();
  return gamma.flatten().to(wide) * std::sqrt(static_cast<double>(x.size(1)));
}

/// With n = x / ||x||: dgain += dy n; dx = (dn - n (n . dn)) / ||x|| where dn = dy gain. `work` holds one
/// row.
template <class T>
void backward_rows(const T* x, const T* gain, const T* dy, T* dx, T* dgain, T* work, int64_t rows,
                   int64_t channels) {
  for (int64_t row = 0; row < rows; ++row, x += channels, dy += channels, dx += channels) {
    const T inverse = inverse_norm(x, channels);
    for (int64_t c = 0; c < channels; ++c) work[c] = dy[c] * gain[c];
    // Below the smallest norm the divisor is a constant, and nothing flows through it.
    const bool constant = inverse >= static_cast<T>(1 / kSmallestNorm);
    const T along = constant ? T{0} : dot(x, work, channels) * inverse * inverse;
    for (int64_t c = 0; c < channels; ++c) {
      dgain[c] += dy[c] * x[c] * inverse;
      dx[c] = (work[c] - x[c] * along) * inverse;
    }
  }
}

/// One pass over memory each way; the same out of LibTorch's operators takes about ten.
class ChannelNorm : public torch::autograd::Function<ChannelNorm> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& gain) {
    const auto x = input.contiguous(at::MemoryFormat::ChannelsLast);
    context->save_for_backward({x, gain});
    const auto y = at::empty_like(x);
    normalize_into(y, x, gain);
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto& x = saved[0];
    const auto& gain = saved[1];
    const auto dy = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    auto dx = at::empty_like(x);
    const int64_t channels = x.size(1), rows = x.numel() / channels, blocks = (rows + kBlock - 1) / kBlock;
    auto partial = at::zeros({blocks, channels}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "channel_norm_backward", [&] {
      const auto* from = x.const_data_ptr<scalar_t>();
      const auto* by = gain.const_data_ptr<scalar_t>();
      const auto* above = dy.const_data_ptr<scalar_t>();
      auto* to = dx.mutable_data_ptr<scalar_t>();
      auto* sums = partial.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
        std::vector<scalar_t> work(channels);
        for (int64_t block = begin; block < end; ++block) {
          const int64_t first = block * kBlock, count = std::min(kBlock, rows - first);
          backward_rows(from + first * channels, by, above + first * channels, to + first * channels,
                        sums + block * channels, work.data(), count, channels);
        }
      });
    });
    return {dx, partial.sum(0)};
  }
};

}  // namespace

at::Tensor channel_norm(const at::Tensor& x, const at::Tensor& gamma) {
  const auto gain = gain_of(gamma, x);
  if (has_kernel(x) && x.element_size() >= 4) return ChannelNorm::apply(x, gain);
  if (has_kernel(x) && !at::GradMode::is_enabled()) {
    const auto from = x.contiguous(at::MemoryFormat::ChannelsLast);
    const auto y = at::empty_like(from);
    normalize_into(y, from, gain);
    return y;
  }
  const auto wide = x.element_size() < 4 ? x.to(at::kFloat) : x;
  const auto squares = (wide * wide).sum({1}, /*keepdim=*/true).clamp_min(kSmallestNorm * kSmallestNorm);
  return (wide * squares.rsqrt() * gain.view({-1, 1, 1})).to(x.scalar_type());
}

void channel_norm_silu_into(at::Tensor out, const at::Tensor& x, const at::Tensor& gamma) {
  EXPECT(out.sizes() == x.sizes() && out.is_contiguous(at::MemoryFormat::ChannelsLast));
  if (has_kernel(x))
    normalize_into(out, x.contiguous(at::MemoryFormat::ChannelsLast), gain_of(gamma, x));
  else
    out.copy_(channel_norm(x, gamma));
  at::silu_(out);
}

}  // namespace surgery
