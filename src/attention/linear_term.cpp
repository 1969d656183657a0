#include "attention/linear_term.h"

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "attention/grouped_product.h"
#include "base/linear.h"

namespace surgery {
namespace {

/// [B,H,N,D] -> [B,H,N/R,R-1,D]: the linear tokens of whole groups of R, a view.
at::Tensor grouped(const at::Tensor& x, int64_t stride) {
  const int64_t groups = x.size(2) / stride;
  return x.narrow(2, 0, groups * stride).unflatten(2, {groups, stride}).slice(3, 1);
}

/// The linear tokens behind the last whole group, a view.
at::Tensor rest(const at::Tensor& x, int64_t stride) {
  const int64_t first = std::min(x.size(2) / stride * stride + 1, x.size(2));
  return x.slice(2, first);
}

/// linear_sums on threads. The cut into chunks depends on sizes only, so the sums do not depend on the
/// threads.
LinearSums sums_by_threads(const at::Tensor& k, const at::Tensor& v, const FeatureMap& phi_k, Rate rate) {
  const int64_t batch = k.size(0), heads = k.size(1), tokens = k.size(2), dim = k.size(3);
  const int64_t stride = rate.is_linear() ? 1 : rate.stride(), features = phi_k.config.features();
  // Enough tokens that the tokens left of T_S fill a tile; a multiple of the stride, so that a tile begins in
  // T_S.
  const int64_t length = (thread_tile + stride - 1) / stride * stride;
  const int64_t tiles = (tokens + length - 1) / length, chunks = std::min<int64_t>(tiles, 8);
  const at::Tensor s = at::zeros({chunks, batch, heads, features, dim}, k.options());
  const at::Tensor z = at::zeros({chunks, batch, heads, features}, k.options());
  at::parallel_for(0, batch * heads * chunks, 1, [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % chunks, b = task / chunks / heads, h = task / chunks % heads;
      const FeatureMap phi = head_of(phi_k, h);
      const at::Tensor s_here = s[chunk][b][h], z_here = z[chunk][b][h];
      for (int64_t tile = tiles * chunk / chunks; tile < tiles * (chunk + 1) / chunks; ++tile) {
        const int64_t first = tile * length, count = std::min(length, tokens - first);
        const auto of = [&](const at::Tensor& x) {
          return linear_tokens(x.narrow(0, b, 1).narrow(1, h, 1).narrow(2, first, count), rate);
        };
        const at::Tensor keys = of(k);
        if (keys.size(2) == 0) continue;
        const at::Tensor f = phi(keys)[0][0];
        s_here.add_(product(f.t(), of(v)[0][0]));
        z_here.add_(f.sum(0));
      }
    }
  });
  return {s.sum(0), z.sum(0)};
}

}  // namespace

bool prefers_thread_tiles(const at::Tensor& x, const FeatureMap& phi) {
  if (at::GradMode::is_enabled()) {
    bool learns = x.requires_grad();
    for (const at::Tensor& parameter : phi.parameters()) learns = learns || parameter.requires_grad();
    if (learns) return false;
  }
  return phi.weight.at(0).scalar_type() == at::kFloat &&
         product_prefers_onednn(x, std::min(x.size(2), thread_tile), phi.config.head_dim,
                                phi.config.features());
}

FeatureMap head_of(const FeatureMap& phi, int64_t head) {
  FeatureMap one{phi.config, {}, {}};
  one.config.heads = 1;
  for (const at::Tensor& weight : phi.weight) one.weight.push_back(weight.narrow(0, head, 1));
  for (const at::Tensor& bias : phi.bias) one.bias.push_back(bias.narrow(0, head, 1));
  return one;
}

at::ScalarType accumulation_type(at::ScalarType type) {
  return at::toOpMathType(type);
}

at::Tensor linear_tokens(const at::Tensor& x, Rate rate) {
  if (rate.is_linear()) return x;
  const int64_t stride = rate.stride();
  const at::Tensor body = grouped(x, stride).flatten(2, 3), tail = rest(x, stride);
  return tail.size(2) == 0 ? body : at::cat({body, tail}, 2);
}

void put_linear_tokens(const at::Tensor& x, Rate rate, const at::Tensor& values) {
  if (rate.is_linear()) {
    x.copy_(values);
    return;
  }
  at::Tensor body = grouped(x, rate.stride()), tail = rest(x, rate.stride());
  const int64_t dense = body.size(2) * body.size(3);
  body.copy_(values.narrow(2, 0, dense).view(body.sizes()));
  tail.copy_(values.slice(2, dense));
}

std::vector<std::pair<int64_t, int64_t>> token_tiles(const at::Tensor& x, const FeatureMapConfig& phi,
                                                     Rate rate) {
  // On a CPU a tile's activations should stay in cache; a GPU wants launches that are few and large.
  const int64_t budget = x.device().is_cpu() ? int64_t{8} << 20 : int64_t{512} << 20;
  const int64_t per_token = x.size(0) * x.size(1) * phi.features() * 8;
  const int64_t stride = rate.is_linear() ? 1 : rate.stride();
  int64_t length = std::max<int64_t>(budget / per_token, 64);
  length = std::max<int64_t>(length / stride, 1) * stride;
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t begin = 0; begin < x.size(2); begin += length)
    tiles.emplace_back(begin, std::min(length, x.size(2) - begin));
  return tiles;
}

LinearSums linear_sums(const at::Tensor& k, const at::Tensor& v, const FeatureMap& phi_k, Rate rate) {
  if (prefers_thread_tiles(k, phi_k)) return sums_by_threads(k, v, phi_k, rate);
  const FeatureMapConfig& config = phi_k.config;
  const auto options = k.options().dtype(accumulation_type(k.scalar_type()));
  LinearSums sums{at::zeros({k.size(0), k.size(1), config.features(), k.size(3)}, options),
                  at::zeros({k.size(0), k.size(1), config.features()}, options)};
  for (const auto& [begin, length] : token_tiles(k, config, rate)) {
    const at::Tensor keys = linear_tokens(k.narrow(2, begin, length), rate);
    if (keys.size(2) == 0) continue;
    const at::Tensor features = phi_k(keys);
    const at::Tensor values = linear_tokens(v.narrow(2, begin, length), rate).to(features.scalar_type());
    sums.s = sums.s + grouped_product(features.transpose(2, 3), values);
    sums.z = sums.z + features.sum(2, false, sums.z.scalar_type());
  }
  return sums;
}

}  // namespace surgery
