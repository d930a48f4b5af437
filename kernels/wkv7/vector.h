// Vectors of a given number of lanes (GCC's vector extension), for code that is compiled once per instruction
// set.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/simd.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors are passed between inlined functions only

namespace wuneng::kernels {

template <class T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T, int lanes>
using Vector = typename VectorOf<T, lanes>::type;

template <int lanes, class T>
WUNENG_INLINE Vector<T, lanes> load(const T* from) {
  return *reinterpret_cast<const Vector<T, lanes>*>(from);
}

template <int lanes, class T>
WUNENG_INLINE void store(T* to, Vector<T, lanes> value) {
  *reinterpret_cast<Vector<T, lanes>*>(to) = value;
}

// exp of every lane: as exponential() of kernels/vector_math.h, in float32.
template <int lanes>
WUNENG_INLINE Vector<float, lanes> exponential_lanes(Vector<float, lanes> x) {
  using Bits = Vector<std::int32_t, lanes>;
  x = x < -87.0f ? Vector<float, lanes>{} - 87.0f : x;
  x = x > 88.0f ? Vector<float, lanes>{} + 88.0f : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Vector<float, lanes> shifted = x * 1.44269504f + round, n = shifted - round;
  const Vector<float, lanes> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float, lanes> p = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return reinterpret_cast<Vector<float, lanes>>(reinterpret_cast<Bits>(p) +
                                                (reinterpret_cast<Bits>(shifted) << 23));
}
template <int lanes>
WUNENG_INLINE Vector<double, lanes> exponential_lanes(Vector<double, lanes> x) {
  for (int i = 0; i < lanes; ++i) x[i] = std::exp(x[i]);
  return x;
}

// rows[i][j] becomes rows[j][i]: blocks of half the size are exchanged across the diagonal, then those of a
// quarter ...
template <class T, int lanes, int half, std::size_t... lane>
WUNENG_INLINE void exchange(Vector<T, lanes>& upper, Vector<T, lanes>& lower, std::index_sequence<lane...>) {
  const Vector<T, lanes> x = upper, y = lower;
  upper = __builtin_shufflevector(x, y, ((lane & half) ? lanes + lane - half : lane)...);
  lower = __builtin_shufflevector(x, y, ((lane & half) ? lanes + lane : lane + half)...);
}
template <class T, int lanes, int half = lanes / 2>
WUNENG_INLINE void transpose_lanes(Vector<T, lanes> (&rows)[lanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i)
    if (!(i & half)) exchange<T, lanes, half>(rows[i], rows[i + half], std::make_index_sequence<lanes>());
  if constexpr (half > 1) transpose_lanes<T, lanes, half / 2>(rows);
}

}  // namespace wuneng::kernels
