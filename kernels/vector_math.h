// Element functions that the compiler can vectorise, for use inside WUNENG_SIMD functions.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/simd.h"

namespace wuneng::kernels {

// exp(x) in float32: Cody-Waite reduction by ln 2 and a Taylor polynomial on [-ln2/2, ln2/2]; within 2 ulp,
// saturating at the ends of the range.
WUNENG_INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504f + round;
  const float n = shifted - round;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto exponent = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) << 23);
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(p) + exponent);
}
WUNENG_INLINE double exponential(double x) { return std::exp(x); }

template <class T>
WUNENG_INLINE T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

// Sums of a row in 16 lanes, folded in a fixed order: what lets the compiler use the vector unit without
// reassociating on its own.
template <class T, class Term>
WUNENG_INLINE T lane_sum(std::int64_t n, Term term) {
  constexpr int lanes = 16;
  T partial[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l) partial[l] += term(i + l);
  for (; i < n; ++i) partial[i % lanes] += term(i);
  T sum = 0;
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) partial[l] += partial[l + half];
  sum += partial[0];
  return sum;
}

}  // namespace wuneng::kernels
