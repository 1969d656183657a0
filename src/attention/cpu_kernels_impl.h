#pragma once
// Kernels written once over vectors of W floats, compiled once per instruction set (see src/CMakeLists.txt).
// Plain pointers and no library templates: code that an older processor could not run must not leak into
// shared inlines.
#include <cstdint>

#include "attention/cpu_kernels.h"

namespace surgery::cpu {
namespace {

#define SURGERY_INLINE inline __attribute__((always_inline))

template <int W>
struct Simd {
  typedef float Vector __attribute__((vector_size(W * 4)));
  typedef float Loose __attribute__((vector_size(W * 4), aligned(4), may_alias));
  typedef int32_t Integers __attribute__((vector_size(W * 4)));

  static SURGERY_INLINE Vector load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
  static SURGERY_INLINE void store(float* p, Vector x) { *reinterpret_cast<Loose*>(p) = x; }
  static SURGERY_INLINE Vector all(float x) { return Vector{} + x; }
  static SURGERY_INLINE Vector max(Vector a, Vector b) { return a > b ? a : b; }

  /// 2^x for x <= 127, relative error 2e-7; below -126 it stays at 2^-126, so no denormal slows the sums.
  /// NaN stays NaN: a comparison with it is false, so it must be max's second operand.
  static SURGERY_INLINE Vector exp2(Vector x) {
    x = max(all(-126.0f), x);
    const Vector shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const Vector rounded = x + shift;
    const Vector r = x - (rounded - shift);
    Vector p = all(1.535336188319500e-4f);
    p = p * r + 1.339887440266574e-3f;
    p = p * r + 9.618437357674640e-3f;
    p = p * r + 5.550332471162809e-2f;
    p = p * r + 2.402264791363012e-1f;
    p = p * r + 6.931472028550421e-1f;
    p = p * r + 1.0f;
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(p) +
                                    (reinterpret_cast<Integers>(rounded) << 23));
  }
};

/// A register tile of MR rows by NR vectors.
template <int W, int MR, int NR>
struct Tile {
  using S = Simd<W>;
  using Vector = typename S::Vector;
  static constexpr int lanes = W * NR;
  Vector c[MR][NR];

  SURGERY_INLINE void clear() {
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) c[i][n] = Vector{};
  }

  SURGERY_INLINE void load(const float* p, int64_t stride) {
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) c[i][n] = S::load(p + i * stride + n * W);
  }

  SURGERY_INLINE void store(float* p, int64_t stride) const {
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) S::store(p + i * stride + n * W, c[i][n]);
  }

  SURGERY_INLINE void scale(const float* factors) {
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) {
      const Vector f = S::load(factors + n * W);
#pragma GCC unroll 32
      for (int i = 0; i < MR; ++i) c[i][n] *= f;
    }
  }

  /// c[i][:] += sum over s < depth of a[s * a_step + i] * b[s * b_step + :].
  SURGERY_INLINE void add_product(const float* a, int64_t a_step, const float* b, int64_t b_step,
                                  int64_t depth) {
    for (int64_t s = 0; s < depth; ++s, a += a_step, b += b_step) {
      Vector row[NR];
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) row[n] = S::load(b + n * W);
#pragma GCC unroll 32
      for (int i = 0; i < MR; ++i) {
        const Vector x = S::all(a[i]);
#pragma GCC unroll 8
        for (int n = 0; n < NR; ++n) c[i][n] += x * row[n];
      }
    }
  }
};

template <int W, int MR, int NR>
struct Flash {
  using S = Simd<W>;
  using Vector = typename S::Vector;
  using T = Tile<W, MR, NR>;
  static constexpr int64_t lanes = T::lanes;
  static constexpr int64_t subblocks = 4;  // queries that share one read of a key block
  static constexpr int64_t key_block = 128;
  static constexpr int64_t query_block = subblocks * lanes;

  static int64_t scratch(int64_t dim) {
    // transposed queries and outputs; maxima, sums, indices (as two floats); logits; rescaling factors
    return subblocks * lanes * (2 * dim + 4) + (key_block + MR) * lanes + lanes + 64;
  }

  static int64_t packed_keys(int64_t keys, int64_t dim) { return (keys + MR - 1) / MR * MR * dim; }

  /// Groups of MR keys, each as [dim][MR]; the last group is filled up with zeros.
  static void pack_keys(const float* k, int64_t stride, int64_t keys, int64_t dim, float* packed) {
    for (int64_t first = 0; first < keys; first += MR)
      for (int64_t d = 0; d < dim; ++d)
        for (int64_t i = 0; i < MR; ++i) *packed++ = first + i < keys ? k[(first + i) * stride + d] : 0.0f;
  }

  static void run(const FlashTask& t) {
    float* const scratch = t.scratch + (64 - reinterpret_cast<uintptr_t>(t.scratch) % 64) % 64 / 4;
    float* const queries = scratch;
    float* const outputs = queries + subblocks * lanes * t.dim;
    float* const maxima = outputs + subblocks * lanes * t.dim;
    float* const sums = maxima + subblocks * lanes;
    float* const logits = sums + subblocks * lanes;
    float* const factors = logits + (key_block + MR) * lanes;
    int64_t* const indices = reinterpret_cast<int64_t*>(factors + lanes);

    const int64_t blocks = (t.queries + lanes - 1) / lanes;
    for (int64_t b = 0; b < blocks; ++b) {
      float* const q = queries + b * lanes * t.dim;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t row = b * lanes + lane;
        for (int64_t d = 0; d < t.dim; ++d)
          q[d * lanes + lane] = row < t.queries ? t.q[row * t.q_stride + d] : 0.0f;
      }
    }
    for (int64_t i = 0; i < blocks * lanes * t.dim; ++i) outputs[i] = 0.0f;
    for (int64_t i = 0; i < blocks * lanes; ++i) {
      maxima[i] = -__builtin_inff();
      sums[i] = 0.0f;
    }
    for (int64_t first = 0; first < t.keys; first += key_block) {
      const int64_t count = t.keys - first < key_block ? t.keys - first : key_block;
      for (int64_t b = 0; b < blocks; ++b)
        add_keys(t, first, count, queries + b * lanes * t.dim, outputs + b * lanes * t.dim,
                 maxima + b * lanes, sums + b * lanes, t.argmax ? indices + b * lanes : nullptr, logits,
                 factors);
    }
    for (int64_t row = 0; row < t.queries; ++row) {
      const float* const o = outputs + row / lanes * lanes * t.dim + row % lanes;
      const float inverse = 1.0f / sums[row];
      for (int64_t d = 0; d < t.dim; ++d) t.output[row * t.output_stride + d] = o[d * lanes] * inverse;
      const float largest = maxima[row] * t.scale;
      t.lse[row] = largest + __builtin_logf(sums[row]);
      if (t.max) t.max[row] = largest;
      if (t.argmax) t.argmax[row] = indices[row];
    }
  }

  /// One online-softmax step: `count` keys from `first` on against one block of queries.
  static void add_keys(const FlashTask& t, int64_t first, int64_t count, const float* q, float* o,
                       float* maxima, float* sums, int64_t* indices, float* logits, float* factors) {
    for (int64_t j = 0; j < count; j += MR) {
      T tile;
      tile.clear();
      tile.add_product(t.packed_k + (first + j) * t.dim, MR, q, lanes, t.dim);
      tile.store(logits + j * lanes, lanes);
    }
    const float base2 = t.scale * 1.44269504088896341f;
    bool moved = false;
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) {
      const Vector before = S::load(maxima + n * W);
      Vector m = before;
      for (int64_t j = 0; j < count; ++j) m = S::max(m, S::load(logits + j * lanes + n * W));
      Vector factor = S::all(1.0f);
      bool any = false;
      for (int i = 0; i < W; ++i) any |= m[i] != before[i];
      if (any) {
        moved = true;
        factor = S::exp2((before - m) * base2);
        S::store(maxima + n * W, m);
        if (indices) find_maxima(first, count, logits + n * W, m, before, indices + n * W);
      }
      S::store(factors + n * W, factor);
      Vector sum{};
      for (int64_t j = 0; j < count; ++j) {
        const Vector p = S::exp2((S::load(logits + j * lanes + n * W) - m) * base2);
        S::store(logits + j * lanes + n * W, p);
        sum += p;
      }
      S::store(sums + n * W, S::load(sums + n * W) * factor + sum);
    }
    for (int64_t d = 0; d < t.dim; d += MR) {
      T tile;
      tile.load(o + d * lanes, lanes);
      if (moved) tile.scale(factors);
      tile.add_product(t.v + first * t.v_stride + d, t.v_stride, logits, lanes, count);
      tile.store(o + d * lanes, lanes);
    }
  }

  /// Where maxima moved: the first key that attains the new one.
  static void find_maxima(int64_t first, int64_t count, const float* logits, Vector m, Vector before,
                          int64_t* indices) {
    if (first == 0)
      for (int i = 0; i < W; ++i) indices[i] = 0;  // stays where no logit is a number
    for (int i = 0; i < W; ++i) {
      if (m[i] == before[i]) continue;
      for (int64_t j = 0; j < count; ++j) {
        if (logits[j * lanes + i] != m[i]) continue;
        indices[i] = first + j;
        break;
      }
    }
  }
};

template <int W, int MR, int NR>
constexpr Kernels kernels_of(const char* name) {
  using F = Flash<W, MR, NR>;
  return {name, MR, F::lanes, F::query_block, F::scratch, F::packed_keys, F::pack_keys, F::run};
}

}  // namespace
}  // namespace surgery::cpu
